"""Vectors of the base model with the explanations that they should get."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from nla_launch.demo.base import LAYER
from nla_launch.demo.corpus import Document
from nla_launch.demo.targets import LIKELY, explanation

BATCH: Final = 16
WINDOW: Final = 128
"""Tokens of a passage."""
POSITIONS: Final = 12
"""Of a passage."""
FIRST: Final = 3
"""The first tokens of a text have vectors like no others."""
SHOWN: Final = 400
"""Characters before a token that are kept for those who look."""
MORE_LIKELY: Final = 2 * LIKELY
"""Tokens looked at: some come to the same words."""


@dataclass(frozen=True)
class Examples:
    """N vectors, and what to say of them."""

    vectors: NDArray[np.float32]
    """[N, d_model]"""
    explanations: NDArray[np.str_]
    contexts: NDArray[np.str_]
    """The last characters up to each, for those who look."""

    def __len__(self) -> int:
        return len(self.vectors)

    def __getitem__(self, rows: Any) -> "Examples":
        return Examples(self.vectors[rows], self.explanations[rows], self.contexts[rows])

    def __add__(self, others: "Examples") -> "Examples":
        both = zip(vars(self).values(), vars(others).values(), strict=True)
        return Examples(*(np.concatenate(columns) for columns in both))

    def save(self, path: Path) -> None:
        """Write them whole or not at all."""
        half = path.with_suffix(".half.npz")
        np.savez(half, vectors=self.vectors, explanations=self.explanations, contexts=self.contexts)
        half.rename(path)

    @classmethod
    def load(cls, path: Path) -> "Examples":
        """Read what was saved."""
        with np.load(path) as read:
            return cls(read["vectors"], read["explanations"], read["contexts"])


def collect(
    model: Any, tokenizer: Any, documents: Sequence[Document], *, count: int, seed: int, layer: int = LAYER
) -> Examples:
    """Read so many vectors of passages, of each kind as many."""
    rng = np.random.default_rng(seed)
    vectors: list[NDArray[np.float32]] = []
    told: list[str] = []
    contexts: list[str] = []
    passages = _passages(tokenizer, documents, rng)
    while len(vectors) < count:
        some = [next(passages) for _ in range(BATCH)]
        states, logits = _read(model, [ids for _, ids in some], layer)
        for (kind, ids), state, scores in zip(some, states, logits, strict=True):
            for place in rng.choice(np.arange(FIRST, len(ids)), POSITIONS, replace=False):
                before = tokenizer.decode(ids[: place + 1])
                vectors.append(state[place].float().cpu().numpy().copy())  # a view would keep the whole batch
                told.append(_told(tokenizer, before, kind, scores[place]))
                contexts.append(before[-SHOWN:])
    order = rng.permutation(len(vectors))[:count]
    return Examples(np.stack(vectors)[order], np.array(told)[order], np.array(contexts)[order])


def read_ends(model: Any, tokenizer: Any, texts: Sequence[str], kinds: Sequence[str], layer: int = LAYER) -> Examples:
    """Read vectors of texts at their last tokens, one text at a time."""
    vectors, told = [], []
    for text, kind in zip(texts, kinds, strict=True):
        states, logits = _read(model, [tokenizer(text, add_special_tokens=False)["input_ids"]], layer)
        vectors.append(states[0, -1].float().cpu().numpy())
        told.append(_told(tokenizer, text, kind, logits[0, -1]))
    return Examples(np.stack(vectors), np.array(told), np.array(texts))


def _told(tokenizer: Any, before: str, kind: str, scores: torch.Tensor) -> str:
    likeliest = scores.topk(MORE_LIKELY).indices.tolist()
    return explanation(before, kind, [tokenizer.decode([token], skip_special_tokens=True) for token in likeliest])


def _passages(
    tokenizer: Any, documents: Sequence[Document], rng: np.random.Generator
) -> Iterator[tuple[str, list[int]]]:
    """Passages without end, every kind as often as any other."""
    by_kind: dict[str, list[Document]] = {}
    for document in documents:
        by_kind.setdefault(document.kind, []).append(document)
    kinds = sorted(by_kind)
    while True:
        kind = kinds[rng.integers(len(kinds))]
        own = by_kind[kind]
        text = own[rng.integers(len(own))].text
        at = int(rng.integers(max(1, len(text) - 4 * WINDOW)))
        start = text.find(" ", at) + 1 if at else 0
        ids = tokenizer(text[start : start + 8 * WINDOW], add_special_tokens=False)["input_ids"][:WINDOW]
        if len(ids) > FIRST + POSITIONS:
            yield kind, ids


@torch.no_grad()
def _read(model: Any, passages: Sequence[list[int]], layer: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs of the block [N, T, d] and logits [N, T, vocabulary] of passages, padded behind."""
    width = max(len(ids) for ids in passages)
    ids = torch.tensor([[*ids, *[0] * (width - len(ids))] for ids in passages])
    read = model(ids, output_hidden_states=True, use_cache=False)
    return read.hidden_states[layer + 1], read.logits
