"""The configuration of a LoRA adapter: what it scales its factors by, and where it may have them. As peft reads it.

Whatever a merge of W + scale * B @ A would leave out is refused by name: a rule that is not followed gives fluent
nonsense.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from nla_engine.adapters.files import AdapterError, read_json

_READ: Final = frozenset({
    "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "target_modules", "exclude_modules",
    "layers_to_transform", "layers_pattern", "init_lora_weights", "peft_type", "bias",
})  # fmt: skip
_NO_MATTER: Final = frozenset({
    "auto_mapping", "base_model_name_or_path", "revision", "peft_version", "task_type", "inference_mode",
    "lora_dropout", "megatron_core", "loftq_config", "eva_config", "corda_config", "lora_ga_config", "runtime_config",
    "qalora_group_size",
})  # fmt: skip
"""Of training, of loading, or without effect by themselves."""
_SINGLE_READ: Final = frozenset({"lora_r", "lora_alpha", "use_rslora", "target_modules"})
_SINGLE_NO_MATTER: Final = frozenset({"ar_num_layers", "quant", "final_norm_stripped"})
"""The last is a rule of the reconstructor, not of its factors."""
_REFUSED: Final = {
    "use_dora": "DoRA also scales whole rows",
    "modules_to_save": "whole modules beside the factors are not merged",
    "trainable_token_indices": "single embeddings are not merged",
    "fan_in_fan_out": "transposed weights are not merged",
    "lora_bias": "biases are not merged",
    "layer_replication": "blocks would have to be repeated",
    "target_parameters": "parameters that are no module's weight are not merged",
}
_PLAIN_STARTS: Final = (None, True, False, "gaussian", "eva", "orthogonal")
"""Values of init_lora_weights that leave the base's weights as they are."""
_EMPTY: Final[tuple[object, ...]] = (None, False, "", [], {})


@dataclass(frozen=True)
class Rules:
    """What an adapter's configuration says."""

    rank: int
    alpha: float
    use_rslora: bool
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]
    targets: str | Sequence[str]
    excluded: str | Sequence[str]
    blocks: Sequence[int]
    """Those that a list of targets is for; all where it is empty."""
    block_names: Sequence[str]

    def check(self) -> None:
        """Raise TypeError or re.error where targets or patterns are none."""
        for names in (self.targets, self.excluded):
            if not isinstance(names, str | list | tuple):
                raise TypeError("target_modules")
        for pattern in (
            *self.ranks,
            *self.alphas,
            *(one for one in (self.targets, self.excluded) if isinstance(one, str)),
        ):
            re.compile(pattern)

    def rank_of(self, module: str) -> int:
        """Tell the rank of a module's factors."""
        return self.ranks.get(_pattern_for(self.ranks, module), self.rank)

    def scale_of(self, module: str) -> float:
        """Tell what B @ A is scaled by."""
        alpha, rank = self.alphas.get(_pattern_for(self.alphas, module), self.alpha), self.rank_of(module)
        return alpha / math.sqrt(rank) if self.use_rslora else alpha / rank

    def target(self, module: str) -> bool:
        """Tell whether peft would put factors there; its check_target_module_exists."""
        if self.excluded and _named(self.excluded, module):
            return False
        if isinstance(self.targets, str):
            return self.targets.lower() == "all-linear" or _named(self.targets, module)
        return _named(self.targets, module) and (not self.blocks or self._block(module) in self.blocks)

    def _block(self, module: str) -> int | None:
        patterns = [rf"(?:^|.*?\.){name}\.(\d+)\." for name in self.block_names] or [r".*?\.[^.]*\.(\d+)\."]
        match = next((match for pattern in patterns if (match := re.match(pattern, module))), None)
        return int(match[1]) if match else None


def read_rules(path: Path, stated: bool | None, *, single: bool) -> Rules:
    """Read an adapter's configuration.

    Args:
        path: the file.
        stated: `use_rslora`, where it is said beside the adapter.
        single: whether it goes with a reconstructor's single file.

    Raises:
        AdapterError: it holds what cannot be merged, or lacks what must be known.
    """
    if not path.is_file():
        raise AdapterError(f"{path.parent} has no {path.name}, which says how its factors are scaled")
    try:
        rules = (_single_rules if single else _peft_rules)(path, read_json(path), stated)
        rules.check()
    except AdapterError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise AdapterError(f"{path} lacks {error}, or has it in another form") from None
    except re.error as error:
        raise AdapterError(f"{path} has a pattern that is no regular expression: {error}") from None
    return rules


def _peft_rules(path: Path, config: dict[str, Any], stated: bool | None) -> Rules:
    for key, reason in _REFUSED.items():
        if config.get(key) not in _EMPTY:
            raise AdapterError(f"{path}: `{key}` is set, and {reason}: merge it with peft, and serve the whole weights")
    _refuse_unknown(path, config, _READ | _NO_MATTER | _REFUSED.keys())
    if config.get("peft_type", "LORA") != "LORA":
        raise AdapterError(f"{path}: an adapter of type {config['peft_type']} is no LoRA, which alone can be merged")
    if config.get("bias", "none") != "none":
        raise AdapterError(f"{path}: `bias: {config['bias']}` changes biases, which are not merged")
    start = config.get("init_lora_weights")
    if not any(start is plain or start == plain for plain in _PLAIN_STARTS):
        raise AdapterError(f"{path}: `init_lora_weights: {start}` is relative to changed weights of the base:"
                           " convert it to a plain LoRA with peft")  # fmt: skip
    blocks = config.get("layers_to_transform")
    return Rules(
        rank=int(config["r"]),
        alpha=float(config["lora_alpha"]),
        use_rslora=_rslora(path, config.get("use_rslora", False), stated),
        ranks={name: int(rank) for name, rank in (config.get("rank_pattern") or {}).items()},
        alphas={name: float(alpha) for name, alpha in (config.get("alpha_pattern") or {}).items()},
        targets=config["target_modules"],
        excluded=config.get("exclude_modules") or (),
        blocks=[blocks] if isinstance(blocks, int) else blocks or (),
        block_names=_listed(config.get("layers_pattern")),
    )


def _single_rules(path: Path, config: dict[str, Any], stated: bool | None) -> Rules:
    _refuse_unknown(path, config, _SINGLE_READ | _SINGLE_NO_MATTER)
    return Rules(
        rank=int(config["lora_r"]),
        alpha=float(config["lora_alpha"]),
        use_rslora=_rslora(path, config.get("use_rslora"), stated),
        ranks={}, alphas={}, targets=config["target_modules"], excluded=(), blocks=(), block_names=(),
    )  # fmt: skip


def _rslora(path: Path, own: bool | None, stated: bool | None) -> bool:
    """Take what is said of the scale, by the files or beside them; never guess it."""
    if own is None and stated is None:
        raise AdapterError(
            f"{path} does not say whether the scale is alpha / r or alpha / sqrt(r), and a wrong one gives nonsense:"
            " in the preset, write the adapter as {source: ..., use_rslora: true} (EasyNLA and nanoNLA) or false"
        )
    if own is not None and stated is not None and bool(own) != stated:
        raise AdapterError(f"{path} says use_rslora {own}, the preset {stated}: take it out of the preset")
    return bool(own if own is not None else stated)


def _refuse_unknown(path: Path, config: Mapping[str, Any], known: Iterable[str]) -> None:
    for key in sorted(config.keys() - set(known)):
        if config[key] not in _EMPTY:
            raise AdapterError(f"{path}: `{key}: {config[key]}` is a rule that nla-serve does not know")


def _pattern_for(patterns: Iterable[str], module: str) -> str:
    """Find the pattern that a module's rank or alpha is under; peft's get_pattern_key."""
    return next((pattern for pattern in patterns if re.match(rf"(.*\.)?({pattern})$", module)), module)


def _named(names: str | Sequence[str], module: str) -> bool:
    """Tell whether a regular expression matches a module's name, or a list has it or its end."""
    if isinstance(names, str):
        return re.fullmatch(names, module) is not None
    return any(module == name or module.endswith(f".{name}") for name in names)


def _listed(value: str | list[str] | None) -> list[str]:
    return [value] if isinstance(value, str) and value else list(value or ())
