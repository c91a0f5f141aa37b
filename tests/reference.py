"""The reference: an NLA pair in plain transformers, written from the maths alone. Shares no code with the product."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma3ForConditionalGeneration,
    GenerationConfig,
)

NEAR_TIE: Final = 1e-4
"""Of two best logits: batches round otherwise, which decides between tokens that are equally good to six digits."""
BATCH: Final = 40
"""Vectors that are read at once: prompts of one length, which need no padding."""


def read(folder: Path) -> dict[str, Any]:
    sidecar: dict[str, Any] = yaml.safe_load((folder / "nla_meta.yaml").read_text())
    return sidecar


def prompt_ids(folder: Path) -> list[int]:
    """A verbalizer's prompt, the marker in it."""
    sidecar, tokenizer = read(folder), AutoTokenizer.from_pretrained(folder)
    content = sidecar["prompt_templates"]["av"].format(injection_char=sidecar["tokens"]["injection_char"])
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    return list(tokenizer.encode(text, add_special_tokens=False))


class Answer(NamedTuple):
    """What a verbalizer says."""

    ids: list[int]
    """Of its tokens, to the end."""
    gaps: list[float]
    """Differences between the two best logits at each: near 0, rounding decides."""

    @property
    def gap(self) -> float:
        """The least of them."""
        return min(self.gaps)

    def clear(self, gap: float) -> list[int]:
        """Ids before the first choice that was not clear."""
        unclear = [at for at, found in enumerate(self.gaps) if found < gap]
        return self.ids[: unclear[0]] if unclear else self.ids


class ReferenceVerbalizer:
    """Vector -> text by `generate(inputs_embeds=...)`, greedy.

    Args:
        folder: of the checkpoint.
        ends: tokens that end a text; the tokenizer's where none are given.
        dtype: of weights and activations.
        device: where they are.
    """

    def __init__(
        self, folder: Path, ends: Sequence[int] = (), *, dtype: torch.dtype = torch.float32, device: str = "cpu"
    ) -> None:
        self.sidecar, self._prompt_ids = read(folder), prompt_ids(folder)
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.ends = [*ends] or [self.tokenizer.eos_token_id]
        self.multimodal = AutoConfig.from_pretrained(folder).architectures == ["Gemma3ForConditionalGeneration"]
        loader = Gemma3ForConditionalGeneration if self.multimodal else AutoModelForCausalLM
        self.model = loader.from_pretrained(folder, dtype=dtype, attn_implementation="eager").eval().to(device)

    def prompt_ids(self) -> list[int]:
        return list(self._prompt_ids)

    def greedy(self, vector: NDArray[np.float32] | None, max_tokens: int) -> list[int]:
        """New token ids, greedily; None leaves the plain marker in the prompt."""
        return self._generate(self.embeds(vector), max_tokens)[0].ids

    def answers(self, vectors: Sequence[NDArray[np.float32]], max_tokens: int) -> list[Answer]:
        """The same of each of several vectors, read at once: their prompts are of one length."""
        return self._generate(self.embeds_each(vectors), max_tokens)

    def texts(self, vectors: Sequence[NDArray[np.float32]], max_tokens: int) -> list[tuple[str, bool]]:
        """Explanation of each, and whether it is complete."""
        return [self.text(answer.ids) for answer in self.answers(vectors, max_tokens)]

    def clear(self, vectors: NDArray[np.float32], max_tokens: int) -> Iterator[tuple[NDArray[np.float32], list[int]]]:
        """Vectors with their greedy token ids, without those where rounding decides."""
        for start in range(0, len(vectors), BATCH):
            some = [*vectors[start : start + BATCH]]
            for vector, answer in zip(some, self.answers(some, max_tokens), strict=True):
                if answer.gap > NEAR_TIE:
                    yield vector, answer.ids

    @torch.no_grad()
    def embeds(self, vector: NDArray[np.float32] | None, new_ids: list[int] | None = None) -> torch.Tensor:
        """Embeddings [1, T, d] of the prompt with the vector in it, and of tokens after it."""
        ids = self.prompt_ids()
        tokens = torch.tensor([ids + (new_ids or [])], device=self.model.device)
        embeds = self.model.get_input_embeddings()(tokens).clone()
        if vector is not None:
            row = torch.from_numpy(vector)
            at = ids.index(self.sidecar["tokens"]["injection_token_id"])
            scaled = row * (self.sidecar["extraction"]["injection_scale"] / row.norm())
            embeds[0, at] = scaled.to(embeds)
        return embeds

    def embeds_each(self, vectors: Sequence[NDArray[np.float32]]) -> torch.Tensor:
        """Embeddings [n, T, d] of the prompts of several vectors."""
        return torch.cat([self.embeds(vector) for vector in vectors])

    @torch.no_grad()
    def logits(self, vector: NDArray[np.float32], new_ids: list[int]) -> torch.Tensor:
        """Logits [T, vocabulary] after each token of the prompt and of the answer."""
        logits: torch.Tensor = self.model(inputs_embeds=self.embeds(vector, new_ids)).logits[0]
        return logits

    @torch.no_grad()
    def _generate(self, embeds: torch.Tensor, max_tokens: int) -> list[Answer]:
        """Answers to prompts [n, T, d]."""
        if self.multimodal:
            ids, logits = self._generate_by_hand(embeds, max_tokens)
        else:
            plain = GenerationConfig(
                do_sample=False,
                max_new_tokens=max_tokens,
                eos_token_id=self.ends,
                pad_token_id=self.ends[0],
                output_logits=True,
                return_dict_in_generate=True,
            )
            mask = torch.ones(embeds.shape[:2], dtype=torch.long, device=embeds.device)
            out = self.model.generate(inputs_embeds=embeds, attention_mask=mask, generation_config=plain)
            ids, logits = out.sequences, torch.stack(out.logits, dim=1)
        best = logits.topk(2).values
        gaps = (best[..., 0] - best[..., 1]).tolist()
        return [self._until_the_end(*row) for row in zip(ids.tolist(), gaps, strict=True)]

    def _until_the_end(self, ids: list[int], gaps: list[float]) -> Answer:
        """Behind its end an answer is padded to the length of its batch."""
        length = next((at + 1 for at, token in enumerate(ids) if token in self.ends), len(ids))
        return Answer(ids[:length], gaps[:length])

    def _generate_by_hand(self, embeds: torch.Tensor, max_tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids [n, t] and logits [n, t, vocabulary] without `generate`, which refuses the multimodal wrapper's."""
        ids, logits = torch.empty((len(embeds), 0), dtype=torch.long, device=embeds.device), []
        ends = torch.tensor(self.ends, device=embeds.device)
        while ids.shape[1] < max_tokens and not torch.isin(ids, ends).any(dim=1).all():
            logits.append(self.model(inputs_embeds=embeds).logits[:, -1])
            token = logits[-1].argmax(dim=-1, keepdim=True)
            ids = torch.cat([ids, token], dim=1)
            embeds = torch.cat([embeds, self.model.get_input_embeddings()(token)], dim=1)
        return ids, torch.stack(logits, dim=1)

    def text(self, ids: list[int]) -> tuple[str, bool]:
        """Explanation and whether it is complete, for generated ids."""
        if ids and ids[-1] == self.tokenizer.eos_token_id:
            ids = ids[:-1]
        generated = self.tokenizer.decode(ids, skip_special_tokens=False)
        start = generated.find("<explanation>")
        begin = 0 if start < 0 else start + len("<explanation>")
        end = generated.find("</explanation>", begin)
        return (generated[begin:] if end < 0 else generated[begin:end]).strip(), end >= 0


class AddingVerbalizer(ReferenceVerbalizer):
    """A verbalizer that adds |h| v/|v| to the output h of a block, where the marker stands."""

    def __init__(self, folder: Path, block: int) -> None:
        super().__init__(folder)
        self.vectors: NDArray[np.float32] | None = None
        self.model.model.layers[block].register_forward_hook(self._add)

    def embeds(self, vector: NDArray[np.float32] | None, new_ids: list[int] | None = None) -> torch.Tensor:
        self.vectors = None if vector is None else vector[None]
        return super().embeds(None, new_ids)

    def embeds_each(self, vectors: Sequence[NDArray[np.float32]]) -> torch.Tensor:
        embeds = super().embeds_each(vectors)
        self.vectors = np.stack(vectors)
        return embeds

    def _add(self, block: torch.nn.Module, arguments: Any, output: torch.Tensor) -> None:
        if self.vectors is None or output.shape[1] == 1:
            return
        rows, vectors = output[:, self._at()], torch.from_numpy(self.vectors)
        length = rows.norm(dim=-1, keepdim=True)
        output[:, self._at()] = rows + length * vectors / vectors.norm(dim=-1, keepdim=True)

    def _at(self) -> int:
        return self._prompt_ids.index(self.sidecar["tokens"]["injection_token_id"])


class ReferenceReconstructor:
    """Text -> vector: the blocks, no final norm, the value head, in float32, on the last token.

    Args:
        folder: of the checkpoint.
        dtype: of the blocks.
        device: where they are.
    """

    def __init__(self, folder: Path, *, dtype: torch.dtype = torch.float32, device: str = "cpu") -> None:
        self.template = read(folder)["prompt_templates"]["ar"]
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModel.from_pretrained(folder, dtype=dtype, attn_implementation="eager").eval().to(device)
        self.final_norm = self.model.norm
        self.model.norm = torch.nn.Identity()
        self.head = load_file(folder / "value_head.safetensors")["weight"].float()

    @torch.no_grad()
    def vector(self, text: str) -> NDArray[np.float32]:
        inputs = self.tokenizer(self.template.replace("{explanation}", text), return_tensors="pt")
        hidden = self.model(**inputs.to(self.model.device)).last_hidden_state[0, -1].cpu().float()
        rebuilt: NDArray[np.float32] = (self.head @ hidden).numpy()
        return rebuilt


def score(
    original: NDArray[np.float32], rebuilt: NDArray[np.float32], baseline: float | None
) -> tuple[float, float, float | None]:
    """mse, cosine and fve in float64, with both vectors scaled to sqrt(d)."""
    a, b = original.astype(np.float64), rebuilt.astype(np.float64)
    scale = np.sqrt(len(a))
    difference = a / np.linalg.norm(a) * scale - b / np.linalg.norm(b) * scale
    mse = float(np.mean(difference**2))
    cosine = float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    return mse, cosine, None if baseline is None else 1 - mse / baseline


class ReferenceSource:
    """Text -> vectors: the output of block `layer` at every token, by transformers' own account; float32.

    Args:
        folder: of a whole model; a multimodal wrapper's language model is read.
        layer: index of the block, from 0.
    """

    def __init__(self, folder: Path, layer: int) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        multimodal = AutoConfig.from_pretrained(folder).architectures == ["Gemma3ForConditionalGeneration"]
        loader = Gemma3ForConditionalGeneration if multimodal else AutoModelForCausalLM
        self.model = loader.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
        self.layer = layer

    def ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text)["input_ids"])

    def chat_ids(self, messages: list[dict[str, str]], **options: Any) -> list[int]:
        text = self.tokenizer.apply_chat_template(
            messages, tokenize=False, **{"add_generation_prompt": True, **options}
        )
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    @torch.no_grad()
    def vectors(self, ids: list[int]) -> NDArray[np.float32]:
        """Vectors [T, d]."""
        out = self.model(input_ids=torch.tensor([ids]), output_hidden_states=True)
        found: NDArray[np.float32] = out.hidden_states[self.layer + 1][0].numpy()
        return found
