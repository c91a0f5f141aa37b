"""How a verbalizer is to be used: the way vectors get in, and what its prompt and its answers look like."""

import math
from typing import Final

from nla_gateway.description import ADD, REPLACE, Injection, Origin, PromptKind, Tags, VerbalizerDescription
from nla_gateway.errors import CheckpointError
from nla_gateway.pair.parsing import CLOSING, OPENING
from nla_launch.pair.origins import Origins
from nla_launch.pair.rules import VerbalizerRules
from nla_launch.pair.sidecar import warn_once
from nla_launch.pair.stated import Stated

ALTERNATIVES: Final = (
    "add to a preset `verbalizer: {injection: {rule: add_after_block, block: 1}}` where it was trained by EasyNLA or"
    " nanoNLA, `verbalizer: {injection: {rule: replace, scale: N}}` where vectors replace the marker's embedding at"
    " norm N, or with `scale: raw` where they do as they are"
)
PREFIX: Final = "verbalizer."


def describe_verbalizer(stated: Stated, template: str, d_model: int, origins: Origins) -> VerbalizerDescription:
    """Describe what only a verbalizer has.

    Raises:
        CheckpointError: how vectors get in is not stated.
    """
    rules, said = stated.rules.verbalizer, None if stated.sidecar is None else stated.sidecar.training.chat_template
    by_training: PromptKind | None = None
    if isinstance(said, bool):
        by_training = "chat" if said else "plain"
    chat: PromptKind = "chat"
    candidates = ((rules.prompt, Origin.PRESET), (by_training, stated.origin), (chat, Origin.DEFAULT))
    prompt: PromptKind | None = origins.take(f"{PREFIX}prompt", *candidates)
    if prompt == "plain" and rules.enable_thinking is not None:
        raise CheckpointError(f"{stated.where}: enable_thinking is for a chat template, and this prompt has none")
    turn, behind = rules.append_to_turn or "", rules.append or ""
    return VerbalizerDescription(
        injection=_injection(stated, d_model, origins),
        prompt=prompt or chat,
        enable_thinking=origins.take(f"{PREFIX}enable_thinking", (rules.enable_thinking, Origin.PRESET)),
        append_to_turn=origins.take(f"{PREFIX}append_to_turn", (rules.append_to_turn, Origin.PRESET)) or "",
        append=origins.take(f"{PREFIX}append", (rules.append, Origin.PRESET)) or "",
        tags=_tags(rules, template + turn, behind, origins),
        max_tokens=origins.take(f"{PREFIX}max_tokens", (rules.max_tokens, Origin.PRESET)),
        complete_at_limit=bool(origins.take(f"{PREFIX}complete_at_limit", (rules.complete_at_limit, Origin.PRESET))),
    )


def _injection(stated: Stated, d_model: int, origins: Origins) -> Injection:
    rule, sidecar, field = stated.rules.verbalizer.injection, stated.sidecar, f"{PREFIX}injection"
    written = None if sidecar is None else sidecar.extraction.injection_scale
    if rule is not None and rule.rule == ADD:
        origins.found |= {f"{field}.rule": Origin.PRESET, f"{field}.block": Origin.PRESET}
        return Injection(rule=ADD, block=rule.block)
    if rule is None and not _says_replace(stated):
        raise CheckpointError(
            f"{stated.where}: how vectors get in is not stated{_what_there_is(stated)}: {ALTERNATIVES}"
        )
    wanted = None if rule is None else rule.scale
    scale = origins.take(f"{field}.scale", (wanted, Origin.PRESET), (written, stated.origin))
    if scale is None and not (sidecar is not None and sidecar.released and _has_scale(stated)):
        raise CheckpointError(f"{stated.where}: at which norm vectors get in is not stated: {ALTERNATIVES}")
    if scale is None:
        origins.found[f"{field}.scale"] = stated.origin
        warn_once(f"{stated.where}: injection_scale is null, which is said to mean as it is: no vector is scaled")
    origins.found[f"{field}.rule"] = stated.origin if rule is None else Origin.PRESET
    number = math.sqrt(d_model) if scale == "sqrt_d_model" else scale
    return Injection(rule=REPLACE, scale=number if isinstance(number, float) else None)


def _says_replace(stated: Stated) -> bool:
    """Whether a sidecar's scale says that vectors replace the embedding: where they are added, there is no scale."""
    sidecar = stated.sidecar
    if sidecar is None:
        return False
    scale = sidecar.extraction.injection_scale
    if isinstance(scale, float) or scale == "sqrt_d_model":
        return True
    # A copy of a dataset's sidecar, or ar_meta.json, is a sign of trainers that add.
    adds = sidecar.kind == "nla_dataset" or stated.meta is not None
    return not adds and (scale == "raw" or (sidecar.released and _has_scale(stated)))


def _has_scale(stated: Stated) -> bool:
    return stated.sidecar is not None and "injection_scale" in stated.sidecar.extraction.model_fields_set


def _what_there_is(stated: Stated) -> str:
    if stated.sidecar is None:
        return ""
    scale = stated.sidecar.extraction.injection_scale
    return (
        f" (injection_scale is {'null' if scale is None else scale})" if _has_scale(stated) else " (no injection_scale)"
    )


def _tags(rules: VerbalizerRules, turn: str, behind: str, origins: Origins) -> Tags:
    """Read off the prompt which tags an answer has; a preset may know better."""
    whole = turn + behind
    if (behind or turn).rstrip().endswith(OPENING):
        asked: Tags = "closing"
    else:
        asked = "both" if OPENING in whole or CLOSING in whole else "none"
    return origins.take(f"{PREFIX}tags", (rules.tags, Origin.PRESET), (asked, Origin.TEMPLATE)) or asked
