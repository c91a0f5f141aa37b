"""Fits engines into the memory of their GPUs: how many samples at a time, and how many tokens in the KV pools."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from nla_launch.errors import PlanError
from nla_launch.plan.gpus import Gpu
from nla_launch.plan.memory import CONTEXT_BYTES, KEPT_FREE, MEMORY_SHARE, Load, pool_bounds, static_share
from nla_launch.plan.plan import Device, EnginePlan

CONCURRENCY: Final[dict[Device, int]] = {"cuda": 256, "cpu": 64}
"""Samples at the same time in each replica, where the user does not say."""
PARTS: Final = 16
"""In such parts of them fewer are tried where the weights leave little room."""
CPU_MEMORY_SHARE: Final = 0.85
"""Of what is free, for weights and pool together; --max-total-tokens is what counts."""
FINENESS: Final = 64
"""A pool's size is chosen out of so many between the least and the wanted one."""


@dataclass(frozen=True)
class Charge:
    """Bytes that one engine takes on each of its GPUs."""

    weights: int
    pool: int
    overhead: int
    loading: int
    """At the end of loading, where that is more than all of the above."""

    @property
    def total(self) -> int:
        """While it serves."""
        return self.weights + self.pool + self.overhead

    @property
    def peak(self) -> int:
        """The most it ever takes."""
        return max(self.total, self.loading)


def charge(engine: EnginePlan) -> Charge | None:
    """Compute what an engine takes of each GPU; None where config.json is not known."""
    load = engine.load
    if load is None:
        return None
    overhead = load.working(engine.running_requests) + CONTEXT_BYTES if engine.device == "cuda" else 0
    return Charge(load.weights, load.pool(engine.pool_tokens), overhead, load.loading if engine.quantization else 0)


def fit(engines: list[EnginePlan], concurrency: int | None) -> list[EnginePlan]:
    """Size the KV pools for the wanted concurrency, or, where the user named none, for what fits.

    Raises:
        PlanError: it does not fit.
    """
    return fit_together([(engines, concurrency is not None)])[0]


def fit_together(pairs: Sequence[tuple[list[EnginePlan], bool]]) -> list[list[EnginePlan]]:
    """Do that for pairs that share GPUs; those that may have fewer samples at a time all get as many parts of them.

    Args:
        pairs: the engines of each, and whether the user named the number of their samples.

    Raises:
        PlanError: they do not fit.
    """

    def with_parts(parts: int) -> list[EnginePlan]:
        return [
            engine if named else replace(engine, concurrency=max(1, engine.concurrency * parts // PARTS))
            for engines, named in pairs
            for engine in engines
        ]

    least = PARTS if all(named for _, named in pairs) else 1
    problem = _problem(_sized(with_parts(least), 0.0))
    if problem is not None:
        raise PlanError(problem)
    tried = (with_parts(parts) for parts in range(PARTS, 0, -1))
    chosen = next(engines for engines in tried if _problem(_sized(engines, 0.0)) is None)
    filled = {engine.label: engine for group in _groups(chosen) for engine in _filled(group)}
    return [[filled[engine.label] for engine in engines] for engines, _ in pairs]


def usable(gpu: Gpu) -> int | None:
    """Bytes of a GPU that may be planned with; None where its size is not known."""
    return None if gpu.memory_bytes is None else int(gpu.memory_bytes * (1 - KEPT_FREE))


def _filled(engines: list[EnginePlan]) -> list[EnginePlan]:
    """Give the pools all that they want, or what there is."""
    return next(
        sized for part in range(FINENESS, -1, -1) if _problem(sized := _sized(engines, part / FINENESS)) is None
    )


def _groups(engines: list[EnginePlan]) -> list[list[EnginePlan]]:
    """Split engines that share no GPU: one's lack of room is no reason to shrink the other. In their order."""
    groups: list[list[EnginePlan]] = []
    for engine in engines:
        near = [group for group in groups if any({*engine.gpus} & {*other.gpus} for other in group)]
        merged = [*(one for group in near for one in group), engine]
        groups = [*(group for group in groups if group not in near), merged]
    return groups


def _sized(engines: Sequence[EnginePlan], part: float) -> list[EnginePlan]:
    """Size the pools: the least (part 0) to the wanted (part 1) number of tokens for an engine's samples."""
    return [_one_sized(engine, part) for engine in engines]


def _one_sized(engine: EnginePlan, part: float) -> EnginePlan:
    least, full = pool_bounds(engine.role, engine.running_requests, engine.context_length)
    tokens = int(least + part * (full - least))
    return replace(engine, pool_tokens=tokens, memory_share=_memory_share(engine, engine.load))


def _memory_share(engine: EnginePlan, load: Load | None) -> float:
    sizes = [gpu.memory_bytes for gpu in engine.gpus if gpu.memory_bytes is not None]
    if engine.device == "cpu":
        return CPU_MEMORY_SHARE
    if not sizes or load is None:
        return MEMORY_SHARE
    return max(0.0, static_share(load.working(engine.running_requests), min(sizes)))


def _problem(engines: Sequence[EnginePlan]) -> str | None:
    """Tell what does not fit, on the GPU where most is missing; None where all fits."""
    worst = max(_overfull(engines), key=lambda found: found[0], default=None)
    return None if worst is None else worst[1]


def _overfull(engines: Sequence[EnginePlan]) -> Iterator[tuple[int, str]]:
    for gpu in {gpu: None for engine in engines for gpu in engine.gpus}:
        room = usable(gpu)
        there = [(engine, taken) for engine in engines if gpu in engine.gpus and (taken := charge(engine)) is not None]
        if room is not None and (missing := sum(taken.peak for _, taken in there) - room) > 0:
            size = f"{gigabytes(room)} of GPU {gpu.index} ({gpu.name}, {KEPT_FREE:.0%} kept free)"
            yield missing, f"{_sum(there)} > {size}"


def _sum(there: Sequence[tuple[EnginePlan, Charge]]) -> str:
    if any(taken.peak > taken.total for _, taken in there):
        return " + ".join(f"{engine.label} {gigabytes(taken.peak)} while it loads" for engine, taken in there)
    weights = [f"{engine.label} {gigabytes(taken.weights)}" for engine, taken in there]
    pools, overhead = (sum(taken.pool for _, taken in there), sum(taken.overhead for _, taken in there))
    return " + ".join([*weights, f"KV {gigabytes(pools)}", f"overhead {gigabytes(overhead)}"])


def gigabytes(count: int) -> str:
    """Write bytes as GB, 10^9."""
    return f"{count / 1e9:.1f} GB"
