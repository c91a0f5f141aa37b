"""The GPUs that this process may use, asked of the driver; importing torch for it would take seconds."""

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Gpu:
    """One GPU; index counts those that CUDA_VISIBLE_DEVICES leaves visible, as CUDA itself does."""

    index: int
    name: str
    memory_bytes: int | None
    """None: not known, for there is no such GPU here (--dry-run)."""
    capability: tuple[int, int] | None = None
    """CUDA compute capability, such as (9, 0) on Hopper."""
    number: int | None = None
    """The driver's number, which counts all GPUs of the machine; None: as index."""

    @property
    def visible_device(self) -> str:
        """What CUDA_VISIBLE_DEVICES calls it."""
        return str(self.index if self.number is None else self.number)


def find_gpus() -> list[Gpu]:
    """List the visible GPUs; none where there is no driver. One that the driver cannot tell of hides no other."""
    import pynvml

    try:
        pynvml.nvmlInit()
        handles = {number: _or_none(pynvml.nvmlDeviceGetHandleByIndex, number)
                   for number in range(pynvml.nvmlDeviceGetCount())}  # fmt: skip
    except pynvml.NVMLError:
        return []
    there = {number: handle for number, handle in handles.items() if handle is not None}
    by_name = {str(number): number for number in there}
    by_name |= {str(_or_none(pynvml.nvmlDeviceGetUUID, handle)): number for number, handle in there.items()}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    wanted = list(map(str, there)) if visible is None else [name.strip() for name in visible.split(",")]
    for part in (name for name in wanted if name.startswith("MIG-")):
        logger.warning("%s is left out: parts of a GPU (MIG) are not planned for; name whole GPUs", part)
    found = [number for name in wanted if (number := _named(name, by_name)) is not None]
    gpus = [_gpu(index, number, there[number]) for index, number in enumerate(found)]
    return [gpu for gpu in gpus if gpu is not None]


def _named(name: str, by_name: dict[str, int]) -> int | None:
    """A GPU's number by what CUDA calls it: its number, its UUID, or how that begins."""
    if name in by_name or not name.startswith("GPU-"):
        return by_name.get(name)
    return next((number for known, number in by_name.items() if known.startswith(name)), None)


def supposed_gpus(count: int) -> list[Gpu]:
    """Stand in for GPUs of a machine that is not known."""
    return [Gpu(index, "unknown", None) for index in range(count)]


def in_ranges(indices: Sequence[int]) -> str:
    """Write a list of GPUs as --gpus takes it: 0-3,6."""
    parts: list[tuple[int, int]] = []
    for index in indices:
        if parts and index == parts[-1][1] + 1:
            parts[-1] = (parts[-1][0], index)
        else:
            parts.append((index, index))
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)


def _gpu(index: int, number: int, handle: object) -> Gpu | None:
    """Describe a GPU; None, with a warning, where the driver cannot."""
    import pynvml

    memory = _or_none(pynvml.nvmlDeviceGetMemoryInfo, handle)
    capability = _or_none(pynvml.nvmlDeviceGetCudaComputeCapability, handle)
    if memory is None:
        logger.warning(
            "GPU %d is left out: the driver does not tell its memory (is it split by MIG, or broken?)", number
        )
        return None
    name = str(_or_none(pynvml.nvmlDeviceGetName, handle) or "unknown")
    return Gpu(index, name, int(memory.total), capability and (int(capability[0]), int(capability[1])), number)


def _or_none(ask: Callable[[Any], Any], about: object) -> Any:
    """Ask the driver; None where it answers with an error."""
    import pynvml

    try:
        return ask(about)
    except pynvml.NVMLError:
        return None
