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

        async def padded_on_one_thread() -> float:
            threads = torch.get_num_threads()
            torch.set_num_threads(1)
            try:
                return await padded()
            finally:
                torch.set_num_threads(threads)

        _check_same(await critic.reconstruct(texts[:4], dtype="float32"), reference, texts[:4])
        sides = {"one": one_by_one, "padded": padded, "on one thread": padded_on_one_thread, "ours": by_us}
        speed = await interleave(scale.rounds, sides)
    to_one, to_padded, to_thread = (ratios(speed["ours"], speed[it]) for it in ("one", "padded", "on one thread"))
    return [
        Figure(f"reconstruct, {name}: transformers one by one", speed["one"], "texts/s"),
        Figure(f"reconstruct, {name}: transformers, padded batches of 32", speed["padded"], "texts/s"),
        Figure(f"reconstruct, {name}: the same on one thread", speed["on one thread"], "texts/s"),
        Figure(f"reconstruct, {name}: nla-serve, whose engine has one thread", speed["ours"], "texts/s"),
        Figure(f"reconstruct, {name}: ratio to one by one", to_one, "x", Target("at least", 3)),
        Figure(f"reconstruct, {name}: ratio to padded batches", to_padded, "x"),
        Figure(f"reconstruct, {name}: ratio to padded batches on one thread", to_thread, "x", Target("at least", 1)),
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
