"""What an engine is told of its checkpoint, beside its role: the plugin in it reads this."""

from pathlib import Path
from typing import Any, Final, assert_never

from nla_gateway.roles import Role
from nla_launch.pair.architectures import model_class
from nla_launch.pair.model_config import ModelConfig

VARIABLE: Final = "NLA_ENGINE_CHECKPOINT"


def told(role: Role, config: ModelConfig, folder: Path) -> dict[str, Any]:
    """Form it, as JSON's values.

    Args:
        role: the engine's.
        config: of the checkpoint.
        folder: the checkpoint's.
    """
    checkpoint: dict[str, Any] = {"architecture": model_class(config.architecture)}
    match role:
        case Role.AV:
            return checkpoint | {"injection": {"rule": "replace"}}
        case Role.AR:
            head = {"file": str(folder / "value_head.safetensors"), "weight": "weight", "bias": None}
            return checkpoint | {"blocks": config.blocks, "final_norm": False, "value_head": head}
        case _:
            assert_never(role)
