"""Entry point `sglang.srt.platforms`: whether an engine runs on our CPU platform.

Imports nothing of SGLang, which loads this module to ask.
"""

import os
import sys
from collections.abc import Callable
from typing import Any, Final

DEVICE_VARIABLE: Final = "NLA_ENGINE_DEVICE"
"""Set to `cpu` by nla-serve for engines without a GPU."""
ATTENTION: Final = "nla_cpu"
"""The attention backend of engines on CPUs, in `--attention-backend`."""
GPU_PACKAGES: Final = ("flashinfer",)
"""Kernels that SGLang imports where they are installed, and does without where they are not."""


def on_cpu() -> bool:
    """Tell whether nla-serve asked for the CPU."""
    return os.environ.get(DEVICE_VARIABLE) == "cpu"


def activate() -> str | None:
    """Name the platform class, or None where nla-serve did not ask for the CPU."""
    if not on_cpu():
        return None
    _leave_out_what_needs_a_gpu()
    return "nla_engine.cpu.runtime.CpuPlatform"


def _leave_out_what_needs_a_gpu() -> None:
    """Spare the rest of SGLang's import a third of its time and memory, and the first requests a C++ compiler."""
    for name in GPU_PACKAGES:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # Python's way to say that there is none
    import torch

    torch.compile = _uncompiled


def _uncompiled(model: Callable[..., Any] | None = None, **options: Any) -> Any:
    """Stand for torch.compile, plain and as a decorator."""
    return model if model is not None else lambda function: function
