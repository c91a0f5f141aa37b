"""Entry point `sglang.srt.platforms`: whether an engine runs on our CPU platform.

Imports nothing of SGLang, which loads this module to ask.
"""

import os
from typing import Final

DEVICE_VARIABLE: Final = "NLA_ENGINE_DEVICE"
"""Set to `cpu` by nla-serve for engines without a GPU."""


def on_cpu() -> bool:
    """Tell whether nla-serve asked for the CPU."""
    return os.environ.get(DEVICE_VARIABLE) == "cpu"


def activate() -> str | None:
    """Name the platform class, or None where nla-serve did not ask for the CPU."""
    return "nla_engine.cpu.CpuPlatform" if on_cpu() else None
