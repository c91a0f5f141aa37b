"""What a benchmark yields: figures over rounds, and how two sides are measured within the same rounds."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeVar

import numpy as np

T = TypeVar("T")
Side = Callable[[], Awaitable[float]]


@dataclass(frozen=True)
class Scale:
    """How much is measured."""

    rounds: int
    recipe_requests: int
    """Requests of the public recipe a round."""
    requests: int
    """Requests of ours a round."""
    lone_requests: int
    """Requests one by one, for latencies."""
    texts: int
    """Texts a round to reconstruct."""
    cached_requests: int
    concurrencies: tuple[int, ...]
    call_sizes: tuple[int, ...]
    memory_vectors: int


FULL: Final = Scale(
    rounds=5,
    recipe_requests=16,
    requests=256,
    lone_requests=150,
    texts=256,
    cached_requests=2000,
    concurrencies=(1, 4, 16, 64, 256),
    call_sizes=(1, 10, 100, 500, 2000),
    memory_vectors=10_000,
)
SMOKE: Final = Scale(
    rounds=2,
    recipe_requests=4,
    requests=16,
    lone_requests=5,
    texts=16,
    cached_requests=64,
    concurrencies=(1, 8),
    call_sizes=(1, 20),
    memory_vectors=64,
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
    median: float = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "median", float(np.median(self.values)))

    @property
    def reached(self) -> bool | None:
        return None if self.target is None else self.target.reached_by(self.median)

    def as_json(self) -> dict[str, Any]:
        target = None if self.target is None else {"sense": self.target.sense, "value": self.target.value}
        spread = [float(min(self.values)), float(max(self.values))]
        return {"name": self.name, "unit": self.unit, "median": self.median, "spread": spread,
                "rounds": self.values, "target": target, "reached": self.reached}  # fmt: skip


async def interleave(rounds: int, sides: Mapping[str, Side]) -> dict[str, list[float]]:
    """Measure all sides in each round, every other round in reverse, after one round that does not count."""
    measured: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds + 1):
        for name in list(sides)[:: 1 if turn % 2 else -1]:
            value = await sides[name]()
            if turn:
                measured[name].append(value)
    return measured


def ratios(one: list[float], other: list[float]) -> list[float]:
    """Ratio of two sides, round by round."""
    return [a / b for a, b in zip(one, other, strict=True)]


async def at_once(limit: int, jobs: Iterable[Callable[[], Awaitable[T]]]) -> tuple[list[float], list[T], float]:
    """Run jobs, `limit` at the same time; returns the seconds of each, their results, and the seconds of all."""
    free = asyncio.Semaphore(limit)

    async def timed(job: Callable[[], Awaitable[T]]) -> tuple[float, T]:
        async with free:
            started = time.perf_counter()
            result = await job()
            return time.perf_counter() - started, result

    started = time.perf_counter()
    done = await asyncio.gather(*(timed(job) for job in jobs))
    return [seconds for seconds, _ in done], [result for _, result in done], time.perf_counter() - started


def percentile(seconds: list[float], share: float) -> float:
    return float(np.percentile(seconds, share))
