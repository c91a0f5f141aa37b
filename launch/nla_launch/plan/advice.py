"""The nearest plans that work, found by trying: every advised one has been planned on the GPUs at hand."""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from nla_gateway.roles import Role
from nla_launch.errors import LaunchError, PlanError
from nla_launch.pair.preset import NONE
from nla_launch.plan.gpus import Gpu, in_ranges
from nla_launch.plan.placement import GpuChoice, Request, Target, plan_pair, tp_of
from nla_launch.plan.plan import EnginePlan

MOST_GPUS: Final = 16
"""How many GPUs on a machine are worth advising."""


@dataclass(frozen=True)
class Advice:
    """A way to serve that works."""

    targets: Mapping[Role, Target]
    request: Request
    gpus: Sequence[Gpu]
    """Those at hand, and perhaps more like the last of them."""


def plan_or_advise(targets: Mapping[Role, Target], request: Request, gpus: Sequence[Gpu]) -> list[EnginePlan]:
    """Plan the engines, or say what would work instead.

    Raises:
        LaunchError: the plan cannot work; the text names the cause and the nearest plans that do.
    """
    try:
        return plan_pair(targets, request, gpus)
    except PlanError as error:
        ways = ", or ".join(_written(way, targets, request, gpus) for way in advise(targets, request, gpus))
        raise LaunchError(f"{error}: {ways or 'no plan like it works'}") from None


def advise(targets: Mapping[Role, Target], request: Request, gpus: Sequence[Gpu]) -> list[Advice]:
    """Find what works, the nearest first: the same pair on these GPUs, else what gives up least.

    Where the pair as it is does not fit these GPUs, there may be several ways: fp8 weights, more GPUs, fewer engines.
    """
    at_hand = _at_hand(request, gpus)
    same = _nearest(targets, request, gpus, at_hand)
    if same is not None:
        return [same]
    fp8 = None
    if request.quantization is None and request.device != "cpu":
        fp8 = _nearest(targets, replace(request, quantization="fp8"), gpus, at_hand)
    ways = [fp8, _with_more(targets, request, gpus), _fewer(targets, request, gpus, at_hand)]
    return [way for way in ways if way is not None]


def flags_of(way: Advice, targets: Mapping[Role, Target], request: Request) -> list[str]:
    """Write what is different from what was asked for, as flags."""
    new, flags = way.request, list[str]()
    if len(way.targets) < len(targets):
        without_source = targets.keys() - way.targets.keys() == {Role.SOURCE}
        flags += ["--source", NONE] if without_source else ["--only", *way.targets]
    if new.gpus != request.gpus:
        for flag, named in dict.fromkeys((new.gpus.flag(role), new.gpus.of(role)) for role in way.targets):
            flags += [] if named is None else [flag, in_ranges(named)]
    if any(tp_of(role, replace(new, tp=request.tp)) != new.tp for role in way.targets):
        flags += ["--tp", str(new.tp)]
    if new.dp != request.dp:
        flags += ["--dp", str(new.dp)]
    if new.quantization != request.quantization:
        flags += ["--quantization", str(new.quantization)]
    if new.concurrency != request.concurrency:
        flags += ["--concurrency", str(new.concurrency)]
    return flags


def _with_more(targets: Mapping[Role, Target], request: Request, gpus: Sequence[Gpu]) -> Advice | None:
    """Take the machine's other GPUs too, and then such as it has not got."""
    if not gpus or gpus[-1].memory_bytes is None:
        return None
    more = [*gpus]
    while len(more) <= MOST_GPUS:
        if (found := _nearest(targets, request, more, [gpu.index for gpu in more])) is not None:
            return found
        more.append(replace(gpus[-1], index=len(more), number=None))
    return None


def _fewer(targets: Mapping[Role, Target], request: Request, gpus: Sequence[Gpu], at_hand: list[int]) -> Advice | None:
    """Leave out engines: the source, else all but one."""
    if len(targets) < 2:
        return None
    pair: dict[Role, Target] = {role: target for role, target in targets.items() if role is not Role.SOURCE}
    fewer: list[dict[Role, Target]] = [{role: target} for role, target in targets.items()]
    if len(pair) < len(targets):
        fewer = [pair, *fewer]
    found = (_nearest(some, request, gpus, at_hand) for some in fewer)
    return next((way for way in found if way is not None), None)


def _nearest(
    targets: Mapping[Role, Target], request: Request, gpus: Sequence[Gpu], at_hand: list[int]
) -> Advice | None:
    """Try all ways to lay these engines out, the nearest to what was asked for first."""
    for way in sorted(_layouts(targets, request, at_hand), key=lambda way: _distance(way, targets, request)):
        if not _works(targets, way, gpus):
            continue
        if way.concurrency is None and request.concurrency is not None:
            works = partial(_works, targets, gpus=gpus)
            way = _most_at_a_time(way, request.concurrency, works)  # noqa: PLW2901 - the same way, made complete
        return Advice(targets, way, gpus)
    return None


def _works(targets: Mapping[Role, Target], way: Request, gpus: Sequence[Gpu]) -> bool:
    try:
        plan_pair(targets, way, gpus)
    except LaunchError:
        return False
    return True


def _most_at_a_time(way: Request, too_many: int, works: Callable[[Request], bool]) -> Request:
    """Find the most samples at the same time that fit, below a number that does not."""
    counts = range(1, too_many)
    first_too_many = bisect_left(counts, True, key=lambda count: not works(replace(way, concurrency=count)))
    return replace(way, concurrency=counts[first_too_many - 1])


def _layouts(targets: Mapping[Role, Target], request: Request, at_hand: list[int]) -> Iterator[Request]:
    nodes = 1 if request.nodes is None else request.nodes.count
    for tp in range(1, len(at_hand) * nodes + 1):
        if any(target.config is not None and not target.config.takes_tp(tp) for target in targets.values()):
            continue
        fixed = request.nodes is not None or request.device == "cpu"
        for dp in [request.dp] if fixed else range(1, len(at_hand) // tp + 1):
            for choice in _choices(max(1, tp * dp // nodes), at_hand, targets, request):
                for concurrency in dict.fromkeys((request.concurrency, None)):
                    yield replace(request, tp=tp, dp=dp, gpus=choice, concurrency=concurrency)


def _at_hand(request: Request, gpus: Sequence[Gpu]) -> list[int]:
    """GPUs that may be used: those that were named, or all. On a CPU, the processes that were asked for."""
    if not gpus or request.device == "cpu":
        return list(range(request.tp or 1))
    return list(dict.fromkeys(request.gpus.named)) or [gpu.index for gpu in gpus]


def _choices(here: int, at_hand: list[int], targets: Mapping[Role, Target], request: Request) -> Iterator[GpuChoice]:
    """Share the GPUs, or split them, an engine's beside the others'."""
    yield GpuChoice() if request.gpus == GpuChoice() else GpuChoice(tuple(at_hand[:here]))
    if len(targets) > 1 and len(targets) * here <= len(at_hand):
        yield GpuChoice(own={role: tuple(at_hand[i * here : (i + 1) * here]) for i, role in enumerate(targets)})


def _distance(way: Request, targets: Mapping[Role, Target], request: Request) -> tuple[int, ...]:
    """Order ways by: GPUs used, sharing or splitting, tp, replicas, concurrency."""
    asked = max(tp_of(role, request) for role in targets)
    tp, split, was_split = way.tp or 1, len(way.gpus.own), len(request.gpus.own)
    used, wanted = tp * way.dp * max(1, split), asked * request.dp * max(1, was_split)
    return (
        abs(used - wanted),
        int(split != was_split),
        abs(tp - asked),
        abs(way.dp - request.dp),
        int(way.concurrency != request.concurrency),
    )


def _written(way: Advice, targets: Mapping[Role, Target], request: Request, gpus: Sequence[Gpu]) -> str:
    flags, more = " ".join(flags_of(way, targets, request)), len(way.gpus) - len(gpus)
    if more:
        return f"add {more} GPU{'s' if more > 1 else ''} like it ({flags})"
    dropped = [f"--{role}-gpus" for role in request.gpus.own if role not in way.request.gpus.own]
    return f"use {flags}" + (f" without {' and '.join(dropped)}" if dropped else "")
