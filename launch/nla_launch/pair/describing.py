"""From a sidecar and a preset to the description of a checkpoint: every rule is stated by one of them, or refused.

A preset goes before the sidecar. What neither states has a default only where this form of sidecar always means it;
nothing is made of a null that may mean several things. Every refusal names the line of a preset that mends it.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, assert_never

from nla_gateway.description import Description, Marker, Origin, ReconstructorDescription
from nla_gateway.errors import CheckpointError
from nla_gateway.pair.template import read_template
from nla_gateway.roles import Role
from nla_launch.pair.checkpoints import SINGLE_CONFIG
from nla_launch.pair.model_config import ModelConfig
from nla_launch.pair.origins import Origins
from nla_launch.pair.reading import PairLayer, describe_source, pair_layer
from nla_launch.pair.rules import NO_RULES, Rules
from nla_launch.pair.sidecar import FOREIGN, SIDECAR, Tokens, find_sidecar, read_sidecar
from nla_launch.pair.stated import Stated
from nla_launch.pair.value_heads import find_head, has_final_norm
from nla_launch.pair.verbalizing import describe_verbalizer

Places = Sequence[tuple[Path, Path | None]]
"""Folders of a checkpoint, those that come first first, the weights' last, each with its repository's."""


def describe(role: Role, places: Places, config: ModelConfig, rules: Rules = NO_RULES) -> Description:
    """Describe one checkpoint.

    Args:
        role: what it is to be served as.
        places: where its files are.
        config: its config.json.
        rules: what a preset states.

    Raises:
        CheckpointError: something is not stated, contradicts itself, or is not served.
    """
    if role is Role.SOURCE:
        return describe_source(places[-1][0], config, pair_layer(rules, {}))
    path, folders = find_sidecar(places), [folder for folder, _ in places]
    if path is None and rules.say_nothing:
        raise CheckpointError(_no_sidecar(folders))
    sidecar = None if path is None else read_sidecar(path)
    if sidecar is not None and sidecar.role not in (None, role):
        raise CheckpointError(
            f"{path} is of a checkpoint of role {sidecar.role}, given as {role}: are --av and --ar swapped?"
        )
    origin = Origin.SIDECAR if path is None or path.parent in folders else Origin.ABOVE
    return _describe(Stated(role, folders, path or folders[-1], sidecar, rules, _meta(folders), origin), config)


def describe_pair(given: Mapping[Role, tuple[Places, ModelConfig]], rules: Rules = NO_RULES) -> dict[Role, Description]:
    """Describe what is to be served, by role: of each where it is, and its configuration.

    Raises:
        CheckpointError: as `describe` does.
    """
    described = {role: describe(role, places, config, rules) for role, (places, config) in given.items()}
    av, ar = described.get(Role.AV), described.get(Role.AR)
    if av is not None and ar is not None and av.layer is None:
        origin = av.origin | {"layer": Origin.OTHER}
        described[Role.AV] = av.model_copy(update={"layer": ar.layer, "origin": origin})
    return described


def layer_beside(places: Sequence[Places]) -> PairLayer:
    """Read in their sidecars what checkpoints that are not served say of their vectors.

    Raises:
        CheckpointError: a sidecar does not fit, or they contradict each other.
    """
    found = [read_sidecar(path) for one in places if (path := find_sidecar(one)) is not None]
    layers = {one.layer for one in found if one.layer is not None}
    widths = {one.d_model for one in found if one.d_model is not None}
    if len(layers) > 1 or len(widths) > 1:
        raise CheckpointError(f"no pair: the sidecars say layers {sorted(layers)} and d_model {sorted(widths)}")
    return PairLayer(next(iter(layers), None), Origin.SIDECAR, next(iter(widths), None))


def _describe(stated: Stated, config: ModelConfig) -> Description:
    role, origins, rules, sidecar = stated.role, Origins(), stated.rules, stated.sidecar
    origins.found["d_model"] = Origin.CONFIG
    written_d_model = None if sidecar is None else sidecar.d_model
    d_model = origins.take("d_model", (written_d_model, stated.origin)) or config.d_model
    written_layer = None if sidecar is None else sidecar.layer
    meta_layer = _number(stated.meta, "ar_num_layers", -1)
    layer = origins.take(
        "layer", (rules.layer, Origin.PRESET), (written_layer, stated.origin), (meta_layer, Origin.META)
    )
    own = rules.verbalizer if role is Role.AV else rules.reconstructor
    written = None if sidecar is None else sidecar.prompt_templates.get(role)
    template = origins.take("template", (own.template, Origin.PRESET), (written, stated.origin))
    if sidecar is not None and sidecar.variant is not None and (layer is None or template is None):
        raise CheckpointError(
            f"{stated.where} is of variant {sidecar.variant!r}: one for several layers, and nla-serve serves one. Add"
            f" `layer: N` and `{role.label}: {{template: ...}}`, its depth written out, to a preset"
        )
    if template is None:
        raise CheckpointError(
            f"{stated.where}: prompt_templates has no `{role}`, which the role needs: add `{role.label}:"
            f" {{template: ...}}` to a preset"
        )
    common: dict[str, Any] = {
        "role": role,
        "d_model": d_model,
        "layer": layer,
        "template": template,
        "marker": _marker(stated, origins),
        "mse_scale": _mse_scale(stated, d_model, origins),
    }
    match role:
        case Role.AV:
            common["verbalizer"] = describe_verbalizer(stated, template, d_model, origins)
        case Role.AR:
            common["reconstructor"] = _reconstructor(stated, layer, origins)
        case _:
            assert_never(role)
    description = Description(**common, origin=origins.found)
    read_template(description, stated.where)
    return description


def _reconstructor(stated: Stated, layer: int | None, origins: Origins) -> ReconstructorDescription:
    rules, sidecar = stated.rules.reconstructor, stated.sidecar
    if layer is None:
        raise CheckpointError(
            f"{stated.where}: no `extraction_layer_index`, which a reconstructor needs: add `layer: N` to a preset"
        )
    prefix = "reconstructor."
    meta_blocks = _number(stated.meta, "ar_num_layers", 0)
    if rules.blocks is None and meta_blocks not in (None, layer + 1):
        raise CheckpointError(
            f"{stated.folder}: a reconstructor of layer {layer} has {layer + 1} blocks, but {SINGLE_CONFIG} says"
            f" ar_num_layers {meta_blocks}: add `reconstructor: {{blocks: N}}` to a preset"
        )
    blocks = origins.take(f"{prefix}blocks", (rules.blocks, Origin.PRESET), (layer + 1, Origin.FROM_LAYER))
    # The reference trainer's form, which has the marker's neighbours, is that of a tokenizer with its special tokens.
    as_reference = True if sidecar is not None and sidecar.is_of_the_reference else None
    suffix = None if sidecar is None else sidecar.tokens.critic_suffix_ids
    return ReconstructorDescription(
        blocks=blocks or layer + 1,
        final_norm=_final_norm(stated, origins),
        value_head=find_head(stated.folders, rules, origins),
        add_special_tokens=origins.take(
            f"{prefix}add_special_tokens", (rules.add_special_tokens, Origin.PRESET), (as_reference, Origin.DEFAULT)
        ),
        suffix_ids=tuple(
            origins.take(f"{prefix}suffix_ids", (rules.suffix_ids, Origin.PRESET), (suffix, stated.origin)) or ()
        ),
    )


def _final_norm(stated: Stated, origins: Origins) -> bool:
    field, sidecar = "reconstructor.final_norm", stated.sidecar
    by_meta = None if stated.meta is None else not stated.meta.get("final_norm_stripped", False)
    by_form = False if sidecar is not None and sidecar.kind == "nla_model" else None
    kept = origins.take(
        field, (stated.rules.reconstructor.final_norm, Origin.PRESET), (by_meta, Origin.META), (by_form, Origin.DEFAULT)
    )
    if kept is not None:
        return kept
    there = has_final_norm(stated.folder)
    if there:
        raise CheckpointError(
            f"{stated.folder}: its weights have a final norm, and nothing states whether it stands before the value"
            " head: add `reconstructor: {final_norm: false}` or `true` to a preset"
        )
    origins.found[field] = Origin.ASSUMED if there is None else Origin.WEIGHTS
    return False


def _marker(stated: Stated, origins: Origins) -> Marker | None:
    """Form the marker; a reconstructor needs none."""
    rule, tokens = stated.rules.marker, Tokens() if stated.sidecar is None else stated.sidecar.tokens
    candidates: dict[str, tuple[str | int | None, str | int | None]] = {
        "char": (rule.char, tokens.injection_char),
        "token_id": (rule.token_id, tokens.injection_token_id),
        "left": (rule.left, tokens.injection_left_neighbor_id),
        "right": (rule.right, tokens.injection_right_neighbor_id),
    }
    found = {
        name: origins.take(f"marker.{name}", (ours, Origin.PRESET), (theirs, stated.origin))
        for name, (ours, theirs) in candidates.items()
    }
    if found["char"] is not None and found["token_id"] is not None:
        return Marker.model_validate(found)
    if stated.role is Role.AV:
        raise CheckpointError(
            f"{stated.where}: no marker is stated: add `marker: {{char: ..., token_id: ...}}` to a preset"
        )
    return None


def _mse_scale(stated: Stated, d_model: int, origins: Origins) -> float | None:
    rule, extraction = stated.rules.mse_scale, None if stated.sidecar is None else stated.sidecar.extraction
    says = extraction is not None and "mse_scale" in extraction.model_fields_set
    origins.found["mse_scale"] = Origin.PRESET if rule is not None else stated.origin if says else Origin.DEFAULT
    if rule is not None:
        scale: float | str | None = rule
    else:
        scale = "sqrt_d_model" if extraction is None else extraction.mse_scale
    if scale == "sqrt_d_model":
        return math.sqrt(d_model)
    return scale if isinstance(scale, float) else None


def _no_sidecar(folders: Sequence[Path]) -> str:
    shown = " and ".join(map(str, folders))
    foreign = next((folder for folder in folders if (folder / FOREIGN).is_file()), None)
    if foreign is not None:
        return (
            f"{foreign} has {FOREIGN} instead of {SIDECAR}, and nla-serve does not read it: state what it says in a"
            " preset (`layer`, `marker`, and of each role its template and rules)"
        )
    return f"{shown} has no {SIDECAR}: is it an NLA checkpoint? The sidecar comes with it; or state all in a preset"


def _meta(folders: Sequence[Path]) -> dict[str, Any] | None:
    path = next((folder / SINGLE_CONFIG for folder in folders if (folder / SINGLE_CONFIG).is_file()), None)
    if path is None:
        return None
    try:
        content: dict[str, Any] = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        raise CheckpointError(f"{path} is not a JSON object: fetch it again") from None
    return content


def _number(meta: Mapping[str, Any] | None, key: str, added: int) -> int | None:
    value = None if meta is None else meta.get(key)
    return value + added if isinstance(value, int) else None
