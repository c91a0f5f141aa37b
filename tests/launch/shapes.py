"""The released pairs' shapes, and GPUs to plan for."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from nla_gateway.description import (
    Description,
    Injection,
    ReconstructorDescription,
    SourceDescription,
    ValueHead,
    VerbalizerDescription,
)
from nla_gateway.roles import Role
from nla_launch.pair.checkpoints import Checkpoint
from nla_launch.pair.model_config import ModelConfig
from nla_launch.plan.gpus import Gpu
from nla_launch.plan.placement import Request, Target, plan_pair
from nla_launch.plan.plan import EnginePlan

QWEN: Final = ModelConfig("Qwen2ForCausalLM", 3584, 28, 28, 4, 128, 18944, 152064, 32768, False)
LLAMA: Final = ModelConfig("LlamaForCausalLM", 8192, 80, 64, 8, 128, 28672, 128256, 131072, False)
GEMMA_12B: Final = ModelConfig("Gemma3ForCausalLM", 3840, 48, 16, 8, 256, 15360, 262208, 131072, True)
GEMMA_27B: Final = ModelConfig("Gemma3ForConditionalGeneration", 5376, 62, 32, 16, 128, 21504, 262208, 131072, True)
PAIR: Final = (Role.AV, Role.AR)
SHAPES: Final[dict[str, tuple[ModelConfig, int]]] = {
    "qwen2.5-7b-l20": (QWEN, 20),
    "gemma-3-12b-l32": (GEMMA_12B, 32),
    "gemma-3-27b-l41": (GEMMA_27B, 41),
    "llama-3.3-70b-l53": (LLAMA, 53),
}
"""The base model's shape and the layer; a reconstructor has that layer's block as its last."""


def pair(shape: str, *roles: Role) -> dict[Role, Target]:
    """Form what is to be served; the pair, without a source, where no role is named."""
    config, layer = SHAPES[shape]
    text = "Gemma3ForCausalLM" if config.architecture.startswith("Gemma3") else config.architecture
    configs: dict[Role, ModelConfig] = {
        Role.AV: config,
        Role.AR: replace(config, blocks=layer + 1, architecture=text),
        Role.SOURCE: replace(config, blocks=layer + 1),
    }
    return {role: target(role, one) for role, one in configs.items() if role in (roles or PAIR)}


def target(role: Role, config: ModelConfig) -> Target:
    return Target(Checkpoint(f"owner/{role}", f"owner/{role}", None), config, described(role, config))


def described(role: Role, config: ModelConfig) -> Description:
    """Describe a checkpoint in the released form."""
    verbalizer = VerbalizerDescription(injection=Injection(rule="replace", scale=1.0), prompt="chat", tags="both")
    reconstructor = ReconstructorDescription(
        blocks=config.blocks,
        final_norm=False,
        value_head=ValueHead(file=Path("value_head.safetensors"), weight="weight"),
        add_special_tokens=True,
    )
    return Description(
        role=role,
        d_model=config.d_model,
        layer=config.blocks - 1,
        template="",
        mse_scale=1.0,
        verbalizer=verbalizer if role is Role.AV else None,
        reconstructor=reconstructor if role is Role.AR else None,
        source=SourceDescription(blocks=config.blocks) if role is Role.SOURCE else None,
    )


def gpus(count: int, gigabytes: float, capability: tuple[int, int] | None = (9, 0)) -> list[Gpu]:
    return [Gpu(index, "test", int(gigabytes * 1e9), capability) for index in range(count)]


def plan_one(role: Role, config: ModelConfig, request: Request | None = None, here: Sequence[Gpu] = ()) -> EnginePlan:
    """Plan one engine alone."""
    return plan_pair({role: target(role, config)}, request or Request(), here)[0]
