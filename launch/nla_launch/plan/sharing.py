"""Engines that are each spread over the same GPUs, and CUDA's MPS, which lets them compute there at the same time."""

import itertools
import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from nla_launch.plan.gpus import Gpu, in_ranges
from nla_launch.plan.plan import EnginePlan

PIPES: Final = "CUDA_MPS_PIPE_DIRECTORY"
"""Names the folder in which CUDA looks for MPS's daemon; engines inherit it from nla-serve."""
USUAL_PIPES: Final = "/tmp/nvidia-mps"  # noqa: S108 - CUDA's own default
START: Final = "nvidia-cuda-mps-control -d"
PATIENCE_S: Final = 1.0


def mps_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Find the folder of MPS's sockets, as CUDA does."""
    return Path(environment.get(PIPES) or USUAL_PIPES)


def mps_runs(folder: Path) -> bool:
    """Tell whether MPS's daemon takes connections, as CUDA does: its socket stays behind when it ends."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
        probe.settimeout(PATIENCE_S)
        try:
            probe.connect(str(folder / "control"))
        except OSError:
            return False
    return True


def shared_gpus(engines: Sequence[EnginePlan]) -> list[Gpu]:
    """List the GPUs over which more than one engine is spread together with others, in their order."""
    spread = [engine for engine in engines if engine.tp > 1]
    shared = {gpu for one, other in itertools.combinations(spread, 2) for gpu in {*one.gpus} & {*other.gpus}}
    return sorted(shared, key=lambda gpu: gpu.index)


def describe_sharing(engines: Sequence[EnginePlan], mps: bool | None) -> list[str]:
    """Say what follows where engines share GPUs so, and what helps; nothing where none do.

    Args:
        engines: those of this machine.
        mps: whether MPS's daemon runs; None where that is not known, for the plan is for another machine.
    """
    gpus = shared_gpus(engines)
    if not gpus:
        return []
    start = f"start it before nla-serve, as the same user and without CUDA_VISIBLE_DEVICES: {START}"
    daemon = {
        True: "Its daemon runs here, and engines use it by themselves.",
        False: f"Its daemon does not run here: {start}",
        None: f"Engines use it by themselves where its daemon runs; else {start}",
    }[mps]
    sharing = [engine for engine in engines if {*engine.gpus} & {*gpus}]
    most = max(sum(gpu in engine.gpus for engine in sharing) for gpu in gpus)
    slower = "both" if most == 2 else "all"
    first, *others = dict.fromkeys(f"--{engine.role}-gpus" for engine in sharing)
    lines = [
        f"engines that share GPUs {in_ranges([gpu.index for gpu in gpus])}, each with tp > 1",
        "  A GPU gives engines its time in turns. What one of them sums over its GPUs waits until it is its turn on",
        f"  all of them, so that {slower} may be slower than their shares. How much was not measured here.",
        "  CUDA's MPS lets them compute at the same time instead.",
        f"  {daemon}",
        f"  Or give each engine GPUs of its own, where there are enough: {first} with {' and '.join(others)}",
    ]
    return ["\n".join(lines)]
