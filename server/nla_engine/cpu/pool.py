"""A hook on the KV pool of an engine on a CPU: its memory is taken where it is used, not all of it at the start."""

import math
import mmap
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


def take_memory_late(original: Callable[..., None], *args: Any, **kwargs: Any) -> None:
    """Create the pool's buffers as SGLang does, but of memory that nothing has written to."""
    with _Untouched():
        original(*args, **kwargs)


class _Untouched(TorchFunctionMode):
    """While it is entered, zeros are pages that the kernel gives, as zeros, when they are first used."""

    def __torch_function__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function is torch.zeros:
            return untouched_zeros(*args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))


def untouched_zeros(shape: Sequence[int], *, dtype: torch.dtype, device: str) -> torch.Tensor:
    """Give zeros of a shape, in memory that counts only where it is used; torch writes its zeros.

    Raises:
        ValueError: the device is no CPU.
    """
    if torch.device(device).type != "cpu":
        raise ValueError(f"memory on {device} is not this process's")
    size = math.prod(shape) * dtype.itemsize
    return torch.frombuffer(mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), dtype=dtype).view(*shape)
