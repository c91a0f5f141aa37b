"""What an engine is told of its checkpoint, beside its role: the plugin in it reads this."""

from typing import Any, Final, assert_never

from nla_gateway.description import REPLACE, Description
from nla_gateway.roles import Role
from nla_launch.pair.architectures import model_class
from nla_launch.pair.bases import part_of
from nla_launch.pair.checkpoints import Checkpoint
from nla_launch.pair.model_config import ModelConfig
from nla_launch.pair.shards import wanted_files

VARIABLE: Final = "NLA_ENGINE_CHECKPOINT"


def told(config: ModelConfig, checkpoint: Checkpoint, description: Description) -> dict[str, Any]:
    """Form it, as JSON's values.

    Args:
        config: of what is loaded.
        checkpoint: what is loaded.
        description: how it is used.
    """
    served: dict[str, Any] = {"architecture": model_class(config.architecture)}
    if checkpoint.adapters:
        served["adapters"] = [
            {"path": str(one.folder or one.source), "use_rslora": one.use_rslora} for one in checkpoint.adapters
        ]
    part = part_of(checkpoint, description)
    if part is not None:
        served["files"] = None if checkpoint.folder is None else wanted_files(checkpoint.folder, part)
    match description.role:
        case Role.AV:
            injection = description.of_verbalizer().injection
            place = {} if injection.rule == REPLACE else {"block": injection.block}
            return served | {"injection": {"rule": injection.rule, **place}}
        case Role.AR:
            rules = description.of_reconstructor()
            head = None if rules.value_head is None else rules.value_head.model_dump(mode="json")
            return served | {"blocks": rules.blocks, "final_norm": rules.final_norm, "value_head": head}
        case Role.SOURCE:
            return served | {"blocks": description.of_source().blocks}
        case _:
            assert_never(description.role)
