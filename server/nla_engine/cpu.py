"""SGLang on any CPU: no GPU, no AMX, no CUDA driver.

SGLang's own CPU engine wants kernels for particular processors. As an out-of-tree platform the engine takes its
plain torch paths instead: slower, and the same everywhere.
"""

from sglang.srt.platforms.cpu import CpuDeviceMixin
from sglang.srt.platforms.device_mixin import PlatformEnum
from sglang.srt.platforms.interface import SRTPlatform


class CpuPlatform(CpuDeviceMixin, SRTPlatform):  # type: ignore[misc]  # SGLang ships no types
    """Plain torch on the CPU, no graphs."""

    _enum = PlatformEnum.OOT

    def get_default_attention_backend(self) -> str:
        """Name the attention backend that needs nothing but torch."""
        return "torch_native"
