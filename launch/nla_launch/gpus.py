"""The GPUs of this machine, asked of the driver; importing torch for it would take seconds."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """One GPU."""

    index: int
    name: str
    memory_bytes: int


def find_gpus() -> list[Gpu]:
    """List the GPUs; none where there is no driver."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
    return [
        Gpu(i, str(pynvml.nvmlDeviceGetName(handle)), int(pynvml.nvmlDeviceGetMemoryInfo(handle).total))
        for i, handle in enumerate(handles)
    ]
