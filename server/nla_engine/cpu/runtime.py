"""SGLang on any CPU: no GPU, no AMX, no CUDA driver.

SGLang's own CPU engine wants kernels for particular processors. As an out-of-tree platform the engine takes its
plain torch paths instead: slower, and the same everywhere.
"""

from sglang.srt.arg_groups.choices import add_attention_backend_choices
from sglang.srt.platforms.cpu import CpuDeviceMixin
from sglang.srt.platforms.device_mixin import PlatformEnum
from sglang.srt.platforms.interface import SRTPlatform

from nla_engine.cpu.platform import ATTENTION


class CpuPlatform(CpuDeviceMixin, SRTPlatform):  # type: ignore[misc]  # SGLang ships no types
    """Plain torch on the CPU, no graphs."""

    _enum = PlatformEnum.OOT

    def __init__(self) -> None:
        super().__init__()
        add_attention_backend_choices([ATTENTION])

    def init_backend(self) -> None:
        """Register our attention, which is there for --attention-backend to name."""
        from sglang.srt.layers.attention.attention_registry import register_attention_backend

        def create(model_runner: object) -> object:
            from nla_engine.cpu.attention import CpuAttention

            return CpuAttention(model_runner)

        register_attention_backend(ATTENTION)(create)

    def get_default_attention_backend(self) -> str:
        """Name the attention backend that needs nothing but torch."""
        return "torch_native"
