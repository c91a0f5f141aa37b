"""Several pairs on one machine: which GPUs are whose, and how much fits there together."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from nla_gateway.roles import Role
from nla_launch.errors import LaunchError, PlanError, naming
from nla_launch.plan.advice import plan_or_advise
from nla_launch.plan.asked import Asked
from nla_launch.plan.fitting import fit_together
from nla_launch.plan.gpus import Gpu
from nla_launch.plan.placement import GpuChoice, Request, Target, place_pair
from nla_launch.plan.plan import EnginePlan


@dataclass(frozen=True)
class ToPlan:
    """One pair, and what there is for it."""

    asked: Asked
    targets: Mapping[Role, Target]
    """Of our engines."""
    request: Request
    gpus: Sequence[Gpu]
    """Those of the machine."""


def plan_together(pairs: Sequence[ToPlan]) -> list[list[EnginePlan]]:
    """Plan the engines of all pairs.

    A pair for which no GPUs are named gets the next that no pair has or names, or, where too few are left, the first
    ones again, which it shares.

    Raises:
        LaunchError: a pair that cannot be served here even alone, or pairs that cannot be together.
    """
    alone = [_by_itself(pair) for pair in pairs]
    if len(pairs) == 1:
        return alone
    _check_devices(alone)
    placed = [_place(pair, some, gpus) for pair, some, gpus in zip(pairs, alone, _shares(pairs, alone), strict=True)]
    fitted: dict[int, list[EnginePlan]] = {}
    for group in _groups(placed):
        found = [(placed[index], pairs[index].request.concurrency is not None) for index in group]
        try:
            fitted |= zip(group, fit_together(found), strict=True)
        except PlanError as error:
            names = " and ".join(pairs[index].asked.name for index in group)
            raise LaunchError(
                f"{error}: {names} do not fit there together: give each GPUs of its own (`gpus`), or serve one less"
            ) from None
    return [fitted[index] for index in range(len(pairs))]


def _by_itself(pair: ToPlan) -> list[EnginePlan]:
    """Plan a pair as if it were the only one."""
    if not pair.targets:
        return []
    with naming(pair.asked.prefix):
        engines = plan_or_advise(pair.targets, pair.request, pair.gpus)
    return [replace(engine, pair=pair.asked.called) for engine in engines]


def _shares(pairs: Sequence[ToPlan], alone: Sequence[list[EnginePlan]]) -> Iterator[GpuChoice]:
    """Share the GPUs that no pair names out to pairs that name none."""
    named, start = {index for pair in pairs for index in pair.request.gpus.named}, 0
    for pair, engines in zip(pairs, alone, strict=True):
        count = len({gpu for engine in engines for gpu in engine.gpus})
        if not count or pair.request.gpus.named:
            yield pair.request.gpus
            continue
        free = [gpu.index for gpu in pair.gpus if gpu.index not in named]
        if count > len(free):
            yield GpuChoice(tuple(gpu.index for gpu in pair.gpus[:count]))
            continue
        if start + count > len(free):
            start = 0
        yield GpuChoice(tuple(free[start : start + count]))
        start += count


def _place(pair: ToPlan, engines: list[EnginePlan], gpus: GpuChoice) -> list[EnginePlan]:
    """Place a pair's engines on these GPUs, each with as many samples at the same time as it may have at most."""
    if not engines:
        return []
    placed = place_pair(pair.targets, replace(pair.request, gpus=gpus), pair.gpus)
    return [replace(engine, pair=pair.asked.called) for engine in placed]


def _groups(placed: Sequence[list[EnginePlan]]) -> list[list[int]]:
    """Split pairs, by their numbers, that share no GPU: one's lack of room is no reason to shrink the other."""
    groups: list[tuple[list[int], set[Gpu]]] = []
    for index, engines in enumerate(placed):
        members, gpus = [index], {gpu for engine in engines for gpu in engine.gpus}
        for group in [group for group in groups if group[1] & gpus]:
            groups.remove(group)
            members, gpus = [*group[0], *members], gpus | group[1]
        groups.append((members, gpus))
    return [members for members, _ in groups]


def _check_devices(plans: Sequence[list[EnginePlan]]) -> None:
    """Raise LaunchError where some engines are for GPUs and others for CPUs: SGLang is imported once, for one kind."""
    by_device = {engine.device: engine.label for engines in plans for engine in engines}
    if len(by_device) > 1:
        which = " and ".join(f"the {label} on {device}" for device, label in by_device.items())
        raise LaunchError(f"all pairs run on GPUs, or all on the CPU; planned are {which}: give --device")
