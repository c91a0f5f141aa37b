"""Growth: concurrency, vectors a call, and the gateway's memory."""

from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from nla_client import AsyncNLAClient
from tests.benchmarks.figures import Figure, Scale, Target, at_once, percentile, repeated
from tests.benchmarks.gateway import open_http, through_gateway
from tests.stack import Stack

MEGABYTE: Final = 2**20
LEAST_REQUESTS: Final = 64


@dataclass(frozen=True)
class Point:
    """One measurement of a growing load."""

    size: int
    vectors_per_s: float
    p99_ms: float
    gateway_mb: float

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def gateway_bytes(stack: Stack) -> int:
    resident: int = stack.gateway().memory_info().rss
    return resident


async def by_concurrency(stack: Stack, vectors: NDArray[np.float32], scale: Scale) -> list[Point]:
    """Single-vector requests, more and more at a time."""
    points = []
    async with open_http() as http:
        for concurrency in scale.concurrencies:
            count = max(min(LEAST_REQUESTS, scale.requests), 2 * concurrency)
            some = repeated(vectors, count)
            jobs = [through_gateway(http, stack.url, v[None], temperature=0) for v in some]
            seconds, total = await at_once(concurrency, jobs)
            p99 = 1000 * percentile(seconds, 99)
            points.append(Point(concurrency, count / total, p99, gateway_bytes(stack) / MEGABYTE))
    return points


async def by_call_size(stack: Stack, vectors: NDArray[np.float32], scale: Scale) -> list[Point]:
    """One call of the client, of more and more vectors."""
    points = []
    async with AsyncNLAClient(stack.url) as client:
        for size in scale.call_sizes:
            some = repeated(vectors, size)
            _, total = await at_once(1, [lambda s=some: client.verbalize(s, temperature=0)])
            points.append(Point(size, size / total, 1000 * total, gateway_bytes(stack) / MEGABYTE))
    return points


def vectors_of(d_model: int) -> NDArray[np.float32]:
    """Any vectors [500, d]."""
    return np.random.default_rng(1).standard_normal((500, d_model)).astype(np.float32)


async def memory(stack: Stack, d_model: int, scale: Scale) -> list[Figure]:
    """Growth of the gateway's memory over very many wide vectors, after a first few."""
    vectors = vectors_of(d_model)
    async with AsyncNLAClient(stack.url) as client:
        await client.verbalize(vectors[: min(len(vectors), scale.memory_vectors)], max_tokens=1)
        before = gateway_bytes(stack)
        for start in range(0, scale.memory_vectors, len(vectors)):
            count = min(len(vectors), scale.memory_vectors - start)
            await client.verbalize(vectors[:count], max_tokens=1)
    grown = (gateway_bytes(stack) - before) / MEGABYTE
    name = f"gateway memory growth over {scale.memory_vectors} vectors, d {d_model}"
    return [Figure(name, [grown], "MB", Target("at most", 50))]
