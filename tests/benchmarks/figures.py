"""What a benchmark yields: figures over rounds, and how two sides are measured within the same rounds."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

import numpy as np
import psutil
from numpy.typing import NDArray

from nla_gateway.limits import GatewayLimits

Job = Callable[[], Awaitable[object]]
Side = Callable[[], Awaitable[float]]


@dataclass(frozen=True)
class Scale:
    """How much is measured."""

    rounds: int
    recipe_requests: int
    """Requests of the public recipe a round."""
    wide_requests: int
    """Requests of ours a round beside the recipe's."""
    requests: int
    """Requests of ours a round on the toy pair."""
    lone_requests: int
    """Requests one by one, for latencies."""
    texts: int
    """Texts a round to reconstruct."""
    cached_requests: int
    concurrencies: tuple[int, ...]
    call_sizes: tuple[int, ...]
    memory_vectors: int
    starts: int
    """Of each pair."""
    body_bytes: int
    """Of the largest bodies."""
    body_items: int
    """Vectors or texts of a right one."""
    body_rounds: int
    page_tokens: int
    page_explained: int
    page_clicks: int
    """And as many curls, a round."""
    page_steps: int
    """Of each scrolling."""


FULL: Final = Scale(
    rounds=3,
    recipe_requests=8,
    wide_requests=80,
    requests=160,
    lone_requests=32,
    texts=128,
    cached_requests=512,
    concurrencies=(1, 8, 64, 256),
    call_sizes=(1, 30, 1000),
    memory_vectors=10_000,
    starts=1,
    body_bytes=GatewayLimits().max_body_bytes,
    body_items=GatewayLimits().max_batch,
    body_rounds=1,
    page_tokens=8000,
    page_explained=GatewayLimits().max_batch,
    page_clicks=4,
    page_steps=60,
)
SMOKE: Final = Scale(
    rounds=1,
    recipe_requests=4,
    wide_requests=16,
    requests=16,
    lone_requests=5,
    texts=16,
    cached_requests=64,
    concurrencies=(1, 8),
    call_sizes=(1, 20),
    memory_vectors=64,
    starts=1,
    body_bytes=2**20,
    body_items=64,
    body_rounds=1,
    page_tokens=400,
    page_explained=16,
    page_clicks=1,
    page_steps=6,
)


@dataclass(frozen=True)
class Target:
    """What a figure should reach."""

    sense: Literal["at least", "at most"]
    value: float

    def reached_by(self, value: float) -> bool:
        return value >= self.value if self.sense == "at least" else value <= self.value


@dataclass(frozen=True)
class Figure:
    """One row of the table: a value for each round, or one alone."""

    name: str
    values: list[float]
    unit: str
    target: Target | None = None

    @property
    def median(self) -> float:
        return float(np.median(self.values))

    @property
    def reached(self) -> bool | None:
        return None if self.target is None else self.target.reached_by(self.median)

    def as_json(self) -> dict[str, Any]:
        target = None if self.target is None else asdict(self.target)
        spread = [float(min(self.values)), float(max(self.values))]
        return {"name": self.name, "unit": self.unit, "median": self.median, "spread": spread,
                "rounds": self.values, "target": target, "reached": self.reached}  # fmt: skip


async def interleave(
    rounds: int,
    sides: Mapping[str, Side],
    *,
    warm: bool = False,
    tell: Callable[[dict[str, list[float]]], None] = lambda _: None,
) -> dict[str, list[float]]:
    """Measure all sides in each round, every other in reverse; unless they are warm, after one that does not count.

    Args:
        rounds: how many.
        sides: what is measured, by name.
        warm: whether the first round counts.
        tell: is given all that was measured so far, after each round.
    """
    measured: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(1 if warm else 0, rounds + 1):
        for name in list(sides)[:: 1 if turn % 2 else -1]:
            value = await sides[name]()
            if turn:
                measured[name].append(value)
        if turn:
            tell(measured)
    return measured


def cpu_s(process: psutil.Process) -> float:
    """Processor time that a process has taken, in seconds."""
    times = process.cpu_times()
    return times.user + times.system


def ratios(one: list[float], other: list[float]) -> list[float]:
    """Ratio of two sides, round by round."""
    return [a / b for a, b in zip(one, other, strict=True)]


async def at_once(limit: int, jobs: Iterable[Job]) -> tuple[list[float], float]:
    """Run jobs, `limit` at the same time; returns the seconds of each and of all."""
    free = asyncio.Semaphore(limit)

    async def timed(job: Job) -> float:
        async with free:
            started = time.perf_counter()
            await job()
            return time.perf_counter() - started

    started = time.perf_counter()
    return await asyncio.gather(*(timed(job) for job in jobs)), time.perf_counter() - started


async def rate(count: int, *jobs: Job, limit: int = 1) -> float:
    """Items/s of jobs that are worth `count` items in all."""
    _, seconds = await at_once(limit, jobs)
    return count / seconds


def repeated(vectors: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """So many vectors [count, d], over and over the same ones."""
    return vectors[np.arange(count) % len(vectors)]


def percentile(seconds: list[float], share: float) -> float:
    return float(np.percentile(seconds, share))
