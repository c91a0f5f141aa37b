"""How a source model is to be used: up to which layer it is run. All else is the model's own."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nla_gateway.description import Description, Origin, SourceDescription
from nla_gateway.errors import CheckpointError
from nla_gateway.roles import Role
from nla_launch.pair.model_config import ModelConfig
from nla_launch.pair.rules import Rules

NO_LAYER: Final = "the layer at which the source is read is not stated: add `layer: N` to a preset"


@dataclass(frozen=True)
class PairLayer:
    """What is known of the vectors that the pair of a source takes."""

    layer: int | None
    origin: Origin
    d_model: int | None = None


NOT_KNOWN: Final = PairLayer(None, Origin.ASSUMED)


def pair_layer(rules: Rules, described: Mapping[Role, Description], beside: PairLayer = NOT_KNOWN) -> PairLayer:
    """Find the layer that a source is read at.

    Args:
        rules: what a preset states.
        described: the pair's checkpoints, those that are served.
        beside: what the sidecars say of those that are not.
    """
    d_model = next((one.d_model for one in described.values()), beside.d_model)
    if rules.layer is not None:
        return PairLayer(rules.layer, Origin.PRESET, d_model)
    for role, origin in ((Role.AR, Origin.OTHER), (Role.AV, Origin.SIDECAR)):
        one = described.get(role)
        if one is not None and one.layer is not None:
            return PairLayer(one.layer, origin, d_model)
    return beside


def describe_source(folder: Path, config: ModelConfig, known: PairLayer) -> Description:
    """Describe a source, which has no sidecar.

    Raises:
        CheckpointError: its layer is not known, or it is no base of the pair.
    """
    if known.layer is None:
        raise CheckpointError(f"{folder}: {NO_LAYER}")
    if known.layer >= config.blocks:
        raise CheckpointError(
            f"{folder}: the source is read at layer {known.layer}, but config.json says num_hidden_layers"
            f" {config.blocks}: is it the pair's base model?"
        )
    if known.d_model not in (None, config.d_model):
        raise CheckpointError(
            f"no pair: the source's d_model is {config.d_model}, the pair's {known.d_model}: is it the base model?"
        )
    origin = {"d_model": Origin.CONFIG, "layer": known.origin, "source.blocks": Origin.FROM_LAYER}
    return Description(
        role=Role.SOURCE,
        d_model=config.d_model,
        layer=known.layer,
        source=SourceDescription(blocks=known.layer + 1),
        origin=origin,
    )
