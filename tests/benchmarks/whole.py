"""The toy pair end to end, with scores; and the share of cached prompt tokens while the KV pool is nearly full."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from nla_client import AsyncNLAClient
from tests.benchmarks.figures import Figure, Scale, Target, interleave, rate, repeated
from tests.benchmarks.gateway import IN_FLIGHT
from tests.plain import verbalize
from tests.stack import Stack

LONG_TOKENS: Final = 32


async def measure_scored(stack: Stack, vectors: NDArray[np.float32], scale: Scale) -> list[Figure]:
    """Vectors/s with and without scores, as a user of the client gets them."""
    some = repeated(vectors, scale.requests)
    async with AsyncNLAClient(stack.url) as client:

        async def scored() -> float:
            return await rate(len(some), lambda: client.verbalize(some, score=True))

        async def unscored() -> float:
            return await rate(len(some), lambda: client.verbalize(some))

        speed = await interleave(scale.rounds, {"scored": scored, "unscored": unscored})
    return [
        Figure("toy pair, verbalize", speed["unscored"], "vectors/s"),
        Figure("toy pair, verbalize with score", speed["scored"], "vectors/s"),
    ]


def measure_cached(stack: Stack, vectors: NDArray[np.float32], scale: Scale) -> list[Figure]:
    """Share of prompt tokens from the cache over many long random samples, more at once than the KV pool holds."""
    prompt = cached = completion = 0
    for start in range(0, scale.cached_requests, IN_FLIGHT * 4):
        count = min(IN_FLIGHT * 4, scale.cached_requests - start)
        usage = verbalize(stack, repeated(vectors, count), temperature=50.0, max_tokens=LONG_TOKENS)["usage"]
        prompt += usage["prompt_tokens"]
        cached += usage["cached_tokens"]
        completion += usage["completion_tokens"]
    share = Figure("prompt tokens cached, KV pool nearly full", [100 * cached / prompt], "%", Target("at least", 80))
    return [share, Figure("tokens a sample meanwhile", [completion / scale.cached_requests], "tokens")]
