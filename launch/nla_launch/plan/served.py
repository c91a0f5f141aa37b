"""What an engine is told of its checkpoint, beside its role: the plugin in it reads this."""

from typing import Any, Final, assert_never

from nla_gateway.roles import Role
from nla_launch.pair.architectures import model_class
from nla_launch.pair.checkpoints import Checkpoint
from nla_launch.pair.model_config import ModelConfig

VARIABLE: Final = "NLA_ENGINE_CHECKPOINT"


def told(role: Role, config: ModelConfig, checkpoint: Checkpoint) -> dict[str, Any]:
    """Form it, as JSON's values.

    Args:
        role: the engine's.
        config: of what is loaded.
        checkpoint: what is served.
    """
    served: dict[str, Any] = {"architecture": model_class(config.architecture)}
    if checkpoint.adapters:
        served["adapters"] = [
            {"path": str(one.folder or one.source), "use_rslora": one.use_rslora} for one in checkpoint.adapters
        ]
    match role:
        case Role.AV:
            return served | {"injection": {"rule": "replace"}}
        case Role.AR:
            found = checkpoint.value_head
            head = {"file": str(found.file), "weight": found.weight, "bias": found.bias}
            return served | {"blocks": config.blocks, "final_norm": False, "value_head": head}
        case _:
            assert_never(role)
