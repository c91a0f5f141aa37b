"""The GPUs that this process may use, asked of the driver; importing torch for it would take seconds."""

import os
from collections.abc import Sequence
from dataclasses import dataclass


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
    """List the visible GPUs; none where there is no driver."""
    import pynvml

    try:
        pynvml.nvmlInit()
        numbers = range(pynvml.nvmlDeviceGetCount())
        handles = [pynvml.nvmlDeviceGetHandleByIndex(number) for number in numbers]
        by_name = {str(number): number for number in numbers}
        by_name |= {str(pynvml.nvmlDeviceGetUUID(handles[number])): number for number in numbers}
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        wanted = list(map(str, numbers)) if visible is None else [name.strip() for name in visible.split(",")]
        found = [by_name[name] for name in wanted if name in by_name]
        return [_gpu(index, number, handles[number]) for index, number in enumerate(found)]
    except pynvml.NVMLError:
        return []


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


def _gpu(index: int, number: int, handle: object) -> Gpu:
    import pynvml

    memory = int(pynvml.nvmlDeviceGetMemoryInfo(handle).total)
    major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
    return Gpu(index, str(pynvml.nvmlDeviceGetName(handle)), memory, (int(major), int(minor)), number)
