"""The architectures that are supported, and the classes that SGLang runs for them."""

from typing import Any, Final

from nla_gateway.roles import Role
from nla_launch.errors import LaunchError
from nla_launch.pair.checkpoints import Checkpoint
from nla_launch.pair.model_config import ModelConfig

OVERRIDES: Final[dict[Role, dict[str, dict[str, Any]]]] = {
    Role.AV: {
        "Qwen2ForCausalLM": {},
        "LlamaForCausalLM": {},
        "Gemma3ForCausalLM": {},
        "Gemma3ForConditionalGeneration": {
            "architectures": ["Gemma3MultimodalVerbalizer", "Gemma3ForCausalLM"],
            "language_model_only": True,
        },
    },
    Role.AR: {
        "Qwen2ForCausalLM": {"architectures": ["Qwen2Reconstructor", "Qwen2ForCausalLM"]},
        "LlamaForCausalLM": {"architectures": ["LlamaReconstructor", "LlamaForCausalLM"]},
        "Gemma3ForCausalLM": {"architectures": ["Gemma3Reconstructor", "Gemma3ForCausalLM"]},
    },
}
"""Supported architectures, with what SGLang is to read instead of config.json's: of two architectures the first is
the class that runs, one of ours, and the second keeps SGLang's checks by name true."""
WIDEST_PLAIN_HEAD: Final = 128
"""The largest head_dim that every attention backend takes."""


def check_architecture(role: Role, checkpoint: Checkpoint, config: ModelConfig) -> None:
    """Raise LaunchError for an architecture that we have no class for."""
    supported = OVERRIDES[role]
    if config.architecture not in supported:
        raise LaunchError(
            f"{checkpoint.source}: a {role.label} of architecture {config.architecture} is not supported;"
            f" supported are {', '.join(supported)}"
        )


def attention_backend(config: ModelConfig | None, dtype: str, capability: tuple[int, int] | None) -> str | None:
    """Choose SGLang's attention backend where its own choice would not do; None leaves it to SGLang.

    Wide heads (Gemma's 256) are known to work in FlashAttention 3, on Hopper, and in FlashInfer elsewhere. SGLang's own
    choice on Blackwell, trtllm_mha, promises nothing for them. Neither takes float32, which Triton does.
    """
    if capability is not None and dtype == "float32":
        return "triton"
    if config is None or capability is None or config.head_dim <= WIDEST_PLAIN_HEAD:
        return None
    return "fa3" if capability[0] == 9 else "flashinfer"
