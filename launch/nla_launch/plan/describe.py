"""The plan in words, for --dry-run."""

import shlex
from collections.abc import Iterable, Sequence
from typing import Final

from nla_gateway.description import Description
from nla_gateway.roles import Role
from nla_gateway.settings import EngineSettings
from nla_launch.plan.fitting import Charge, charge, gigabytes
from nla_launch.plan.gpus import Gpu, in_ranges
from nla_launch.plan.plan import EnginePlan
from nla_launch.plan.sharing import describe_sharing
from nla_launch.plan.understood import understood

KEY_SHOWN: Final = "<random>"
COUNTED: Final = {Role.AV: "samples", Role.AR: "texts", Role.SOURCE: "texts"}
NOT_HERE: Final = {
    Role.AV: "its sidecar",
    Role.AR: "its sidecar",
    Role.SOURCE: "its config.json, or what states the pair's layer,",
}
UNKNOWN: Final = "unknown until config.json is there"


def describe(
    engines: Sequence[EnginePlan],
    others: Iterable[tuple[Role, EngineSettings]] = (),
    listen: tuple[str, int] | None = None,
    mps: bool | None = None,
) -> str:
    """Describe all engines, what they take of each GPU together, and those that run elsewhere.

    Args:
        engines: ours.
        others: those elsewhere, with their roles.
        listen: where ours listens, if others may use it.
        mps: whether CUDA's MPS runs; None where that is not known.
    """
    elsewhere = [_other(role, engine) for role, engine in others]
    ours = [*(_engine(engine, listen) for engine in engines), *_totals(engines), *describe_sharing(engines, mps)]
    return "\n\n".join([*ours, *elsewhere])


def _other(role: Role, engine: EngineSettings) -> str:
    return "\n".join(
        [
            engine.label or role.label,
            f"  checkpoint   {engine.model}",
            f"  runs at      {', '.join(engine.urls)}, in {engine.dtype}",
            *_understood(role, engine.description),
        ]
    )


def _engine(engine: EnginePlan, listen: tuple[str, int] | None) -> str:
    host, port = listen or ("127.0.0.1", 0)
    command = shlex.join(engine.command(port, KEY_SHOWN, host)).replace("--port 0", "--port <free>")
    environment = " ".join(f"{key}={shlex.quote(value)}" for key, value in engine.environment().items())
    weights = f", {engine.quantization} weights" if engine.quantization else ""
    nodes = "" if engine.nodes is None else f" over {engine.nodes.count} machines, this is {engine.nodes.rank}"
    each = " in each replica" if engine.dp > 1 else ""
    return "\n".join(
        [
            engine.label,
            f"  checkpoint   {engine.checkpoint.source}",
            f"  device       {engine.device}, {engine.dtype}{weights}",
            f"  gpus         {', '.join(str(gpu.index) for gpu in engine.gpus) or 'none'}",
            f"  tp           {engine.tp}{f' x dp {engine.dp}' if engine.dp > 1 else ''}{nodes}",
            f"  memory       {_memory(engine, charge(engine))}",
            f"  concurrency  {engine.concurrency} {COUNTED[engine.role]}, KV pool of {engine.pool_tokens} tokens{each}",
            f"  context      {engine.context_length} tokens",
            f"  environment  {environment}",
            f"  command      {command}",
            *_understood(engine.role, engine.description),
        ]
    )


def _understood(role: Role, description: Description | None) -> list[str]:
    if description is None:
        return [f"  understood   nothing yet: {NOT_HERE[role]} is not here"]
    first, *others = understood(description)
    return [f"  understood   {first}", *(f"               {line}" for line in others)]


def _memory(engine: EnginePlan, taken: Charge | None) -> str:
    if taken is None:
        return UNKNOWN
    parts = f"weights {_fine(taken.weights)} + KV pool {_fine(taken.pool)}"
    if engine.device == "cpu":
        return f"{parts} a process"
    loading = f", {_fine(taken.loading)} while it loads" if taken.loading > taken.total else ""
    return f"{parts} + overhead {_fine(taken.overhead)} = {_fine(taken.total)} a GPU{loading}"


def _totals(engines: Sequence[EnginePlan]) -> list[str]:
    """Sum up each GPU; equal ones are one line."""
    lines: dict[str, list[int]] = {}
    for gpu in {gpu: None for engine in engines for gpu in engine.gpus}:
        lines.setdefault(_total(gpu, engines), []).append(gpu.index)
    rows = [f"  {in_ranges(indices):<11}  {text}" for text, indices in lines.items()]
    return ["\n".join(["each GPU in all", *rows])] if rows else []


def _total(gpu: Gpu, engines: Sequence[EnginePlan]) -> str:
    there = [(engine.label, charge(engine)) for engine in engines if gpu in engine.gpus]
    size = "a GPU of unknown size" if gpu.memory_bytes is None else f"{gigabytes(gpu.memory_bytes)}, {gpu.name}"
    known = [(label, taken) for label, taken in there if taken is not None]
    if len(known) < len(there):
        return f"{UNKNOWN}, of {size}"
    parts = " + ".join(f"{label} {gigabytes(taken.total)}" for label, taken in known)
    whole = f" = {gigabytes(sum(taken.total for _, taken in known))}" if len(known) > 1 else ""
    return f"{parts}{whole} of {size}"


def _fine(count: int) -> str:
    return f"{count / 1e9:.2f} GB"
