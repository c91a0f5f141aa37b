"""The GPUs that this process may use, asked of the driver; importing torch for it would take seconds."""

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """One GPU; index counts those that CUDA_VISIBLE_DEVICES leaves visible, as CUDA itself does."""

    index: int
    name: str
    memory_bytes: int


def find_gpus() -> list[Gpu]:
    """List the visible GPUs; none where there is no driver."""
    import pynvml

    try:
        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        by_name = {str(number): handle for number, handle in enumerate(handles)}
        by_name |= {str(pynvml.nvmlDeviceGetUUID(handle)): handle for handle in handles}
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        wanted = [str(number) for number in range(len(handles))] if visible is None else visible.split(",")
        return [_gpu(index, by_name[name.strip()]) for index, name in enumerate(wanted) if name.strip() in by_name]
    except pynvml.NVMLError:
        return []


def _gpu(index: int, handle: object) -> Gpu:
    import pynvml

    memory = int(pynvml.nvmlDeviceGetMemoryInfo(handle).total)
    return Gpu(index, str(pynvml.nvmlDeviceGetName(handle)), memory)
