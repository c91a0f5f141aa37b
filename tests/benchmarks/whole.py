"""The demo pair end to end, with scores; and the share of cached prompt tokens while the KV pool is nearly full."""

import numpy as np
from numpy.typing import NDArray

from nla_client import AsyncNLAClient
from tests.benchmarks.figures import Figure, Scale, Target, at_once, interleave
from tests.benchmarks.gateway import IN_FLIGHT
from tests.plain import encode
from tests.stack import Stack


async def measure_scored(stack: Stack, vectors: NDArray[np.float32], scale: Scale) -> list[Figure]:
    """Vectors/s with and without scores, as a user of the client gets them."""
    some = vectors[np.arange(scale.requests) % len(vectors)]
    async with AsyncNLAClient(stack.url) as client:

        async def scored() -> float:
            return len(some) / (await at_once(1, [lambda: client.verbalize(some, score=True)]))[2]

        async def unscored() -> float:
            return len(some) / (await at_once(1, [lambda: client.verbalize(some)]))[2]

        speed = await interleave(scale.rounds, {"scored": scored, "unscored": unscored})
    return [
        Figure("demo pair, verbalize", speed["unscored"], "vectors/s"),
        Figure("demo pair, verbalize with score", speed["scored"], "vectors/s"),
    ]


def measure_cached(stack: Stack, vectors: NDArray[np.float32], scale: Scale) -> list[Figure]:
    """Share of prompt tokens from the cache over many long random samples, more at once than the KV pool holds."""
    prompt = cached = completion = 0
    for start in range(0, scale.cached_requests, IN_FLIGHT * 4):
        count = min(IN_FLIGHT * 4, scale.cached_requests - start)
        some = vectors[np.arange(start, start + count) % len(vectors)]
        body = {"vectors": [encode(v) for v in some], "dtype": "float32", "temperature": 50.0, "max_tokens": 64}
        usage = stack.http.post("/verbalize", json=body, timeout=600).raise_for_status().json()["usage"]
        prompt += usage["prompt_tokens"]
        cached += usage["cached_tokens"]
        completion += usage["completion_tokens"]
    share = Figure("prompt tokens cached, KV pool nearly full", [100 * cached / prompt], "%", Target("at least", 80))
    return [share, Figure("tokens a sample meanwhile", [completion / scale.cached_requests], "tokens")]
