"""`/reconstruct` against plain transformers, one by one and in padded batches."""

from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from nla_client import AsyncNLACritic
from tests.benchmarks.figures import Figure, Scale, Target, interleave, rate, ratios
from tests.reference import ReferenceReconstructor

PADDED_BATCH: Final = 32
WORDS: Final = ("cooking", "French", "geometry", "anger", "databases", "irony", "fishing", "past tense", "music")


def make_texts(count: int) -> list[str]:
    """Different texts of different lengths, such as a verbalizer writes."""
    chosen = np.random.default_rng(0).choice(WORDS, (count, 12))
    return [f"Mostly {', '.join(row[: 3 + k % 10])}." for k, row in enumerate(chosen)]


async def measure(name: str, url: str, checkpoint: Path, scale: Scale) -> list[Figure]:
    """Texts/s of the three, in float32."""
    reference, texts = ReferenceReconstructor(checkpoint), make_texts(scale.texts)
    async with AsyncNLACritic(url) as critic:

        async def by_us() -> float:
            return await rate(len(texts), lambda: critic.reconstruct(texts, dtype="float32"))

        async def one_by_one() -> float:
            async def work() -> None:
                for text in texts:
                    reference.vector(text)

            return await rate(len(texts), work)

        async def padded() -> float:
            async def work() -> None:
                for start in range(0, len(texts), PADDED_BATCH):
                    padded_vectors(reference, texts[start : start + PADDED_BATCH])

            return await rate(len(texts), work)

        _check_same(await critic.reconstruct(texts[:4], dtype="float32"), reference, texts[:4])
        speed = await interleave(scale.rounds, {"one": one_by_one, "padded": padded, "ours": by_us})
    to_one, to_padded = ratios(speed["ours"], speed["one"]), ratios(speed["ours"], speed["padded"])
    return [
        Figure(f"reconstruct, {name}: transformers one by one", speed["one"], "texts/s"),
        Figure(f"reconstruct, {name}: transformers, padded batches of 32", speed["padded"], "texts/s"),
        Figure(f"reconstruct, {name}: nla-serve", speed["ours"], "texts/s"),
        Figure(f"reconstruct, {name}: ratio to one by one", to_one, "x", Target("at least", 3)),
        Figure(f"reconstruct, {name}: ratio to padded batches", to_padded, "x"),
    ]


@torch.no_grad()
def padded_vectors(reference: ReferenceReconstructor, texts: list[str]) -> Any:
    """The reference in one padded batch [N, d]; padded on the left, so that the last token is the last."""
    prompts = [reference.template.replace("{explanation}", text) for text in texts]
    inputs = reference.tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left")
    return reference.model(**inputs).last_hidden_state[:, -1] @ reference.head.T


def _check_same(rebuilt: Any, reference: ReferenceReconstructor, texts: list[str]) -> None:
    for vectors in (rebuilt, padded_vectors(reference, texts).numpy()):
        for vector, text in zip(vectors, texts, strict=True):
            wanted = reference.vector(text)
            if np.linalg.norm(vector - wanted) > 1e-3 * np.linalg.norm(wanted):
                raise RuntimeError("the sides rebuild different vectors: their speeds do not compare")
