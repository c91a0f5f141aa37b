"""LoRA adapters as files: which factors they hold, for which weights, and by what rule they are to be merged.

Read as peft reads them, and refused by name where they hold anything that a merge of W + scale * B @ A leaves out:
a rule that is not followed gives fluent nonsense. Knows neither torch nor SGLang, so that nla-serve can ask in a
moment, before any engine starts, whether adapters fit: `python -m nla_engine.lora`.
"""

import json
import math
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

CONFIG: Final = "adapter_config.json"
WEIGHTS: Final = "adapter_model.safetensors"
SINGLE: Final = "ar_lora_value_head.safetensors"
"""A reconstructor's factors and value head in one file."""
SINGLE_CONFIG: Final = "ar_meta.json"
INDEX: Final = "model.safetensors.index.json"

_FACTOR: Final = re.compile(r"(?P<module>.+)\.lora_(?P<side>[AB])(?:\.(?P<adapter>[^.]+))?\.weight")
_WRAPPERS: Final = frozenset({"base_model", "model", "language_model", "backbone", "transformer"})
"""What may stand before a weight's name, by the class that it was saved from."""
_BLOCK: Final = re.compile(r"(?:layers|h)\.(\d+)\.")
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
_FOREIGN: Final = {
    "lora_magnitude_vector": "DoRA also scales whole rows",
    "lora_embedding_": "adapters of embeddings are not merged",
}
_FLOATS: Final = frozenset({"F64", "F32", "F16", "BF16"})
_EMPTY: Final[tuple[object, ...]] = (None, False, "", [], {})


class AdapterError(ValueError):
    """An adapter that cannot be merged; its text is one line that names cause and mend."""


@dataclass(frozen=True)
class Given:
    """An adapter as the launcher gives it."""

    path: Path
    """Its folder, or a reconstructor's single file."""
    use_rslora: bool | None = None
    """Stated beside it, where its own files do not say."""


@dataclass(frozen=True)
class Head:
    """A tensor in a file, not loaded."""

    dtype: str
    """In the file's own words: BF16, F32, F8_E4M3."""
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Factor:
    """What one adapter adds to one weight: scale * B @ A."""

    file: Path
    a: str
    """Name of A [rank, in] in the file."""
    b: str
    """Name of B [out, rank]."""
    scale: float
    shape: tuple[int, int]
    """[out, in], which the weight has, too."""


@dataclass(frozen=True)
class _Rules:
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

    def rank_of(self, module: str) -> int:
        return self.ranks.get(_pattern_for(self.ranks, module), self.rank)

    def scale_of(self, module: str) -> float:
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


def stem(name: str) -> str:
    """Reduce a weight's or module's name to what all classes agree on: `layers.3.mlp.up_proj.weight`."""
    parts = name.split(".")
    while len(parts) > 1 and parts[0] in _WRAPPERS:
        parts.pop(0)
    return ".".join(parts)


def block_of(name: str) -> int | None:
    """Tell which block a weight of the language model belongs to, by its stem; None: to none."""
    match = _BLOCK.match(name)
    return int(match[1]) if match else None


def factors_of(adapters: Iterable[Given], blocks: int | None = None) -> dict[str, list[Factor]]:
    """Read adapters.

    Args:
        adapters: in the order in which they are stacked.
        blocks: those that the model keeps; factors of later ones go with them. None: all.

    Returns:
        For the stem of each weight, what is added to it.

    Raises:
        AdapterError: one cannot be merged.
    """
    found: dict[str, list[Factor]] = {}
    for adapter in adapters:
        for name, factor in _factors(adapter):
            block = block_of(name)
            if blocks is None or block is None or block < blocks:
                found.setdefault(name, []).append(factor)
    return found


def check_weight(name: str, dtype: str, shape: Sequence[int], factors: Iterable[Factor]) -> None:
    """Raise AdapterError where factors do not fit the weight that they are for.

    Args:
        name: the weight's.
        dtype: as files have it.
        shape: the weight's.
        factors: those for it.
    """
    for factor in factors:
        if dtype not in _FLOATS:
            raise AdapterError(
                f"{name} of the base is {dtype}, and nothing can be merged into quantized weights:"
                " give the base in bfloat16"
            )
        if tuple(shape) != factor.shape:
            raise AdapterError(
                f"{factor.file}: the factors for {name} are for a weight {list(factor.shape)}, but the base's is"
                f" {list(shape)}: is it an adapter of another base?"
            )


def check_all_used(factors: Mapping[str, Sequence[Factor]], used: Iterable[str]) -> None:
    """Raise AdapterError where factors found no weight.

    Args:
        factors: all that there are.
        used: those stems that weights had.
    """
    left = sorted(factors.keys() - set(used))
    if left:
        file = factors[left[0]][0].file
        more = f" (and {len(left) - 1} others)" if len(left) > 1 else ""
        raise AdapterError(f"{file}: the base has no weight {left[0]}{more}, which it has factors for: is it an"
                           " adapter of another base?")  # fmt: skip


def check(base: Path, adapters: Sequence[Given], blocks: int | None, *, tied: bool) -> None:
    """Check by the heads of the files, and the factors' values, that adapters can be merged into a base.

    Raises:
        AdapterError: they cannot.
    """
    factors = factors_of(adapters, blocks)
    heads = {stem(name): (name, head) for path in weight_files(base) for name, head in read_heads(path).items()}
    if tied:
        # SGLang reads such a table for the embedding alone, or for nothing.
        heads.pop("lm_head.weight", None)
    for name in factors.keys() & heads.keys():
        full, head = heads[name]
        check_weight(full, head.dtype, head.shape, factors[name])
    check_all_used(factors, heads)
    _check_values(factors)


def weight_files(folder: Path) -> list[Path]:
    """List the files of a checkpoint's weights: those in its index where it has one."""
    index = folder / INDEX
    if index.is_file():
        return [folder / name for name in sorted(set(_read_json(index)["weight_map"].values()))]
    return sorted(folder.glob("*.safetensors"))


def read_heads(path: Path) -> dict[str, Head]:
    """Read names, types and shapes of a file's tensors.

    Raises:
        AdapterError: it is missing, or no file of safetensors.
    """
    try:
        with path.open("rb") as stream:
            head = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        return {name: Head(one["dtype"], tuple(one["shape"])) for name, one in head.items() if name != "__metadata__"}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, MemoryError, OverflowError):
        raise AdapterError(f"{path} is missing, or no file of safetensors: fetch it again") from None


def _factors(adapter: Given) -> Iterator[tuple[str, Factor]]:
    """Read one adapter: the stem of each weight, and its factor."""
    file, rules, backbone = _open(adapter)
    heads = read_heads(file)
    modules = _modules(file, heads, backbone=backbone)
    if not modules:
        raise AdapterError(f"{file} holds no factors lora_A and lora_B")
    for module, sides in modules.items():
        if set(sides) != {"A", "B"}:
            raise AdapterError(f"{file}: {module} has lora_{next(iter(sides))} alone: fetch it again")
        if not rules.target(module):
            raise AdapterError(f"{file}: target_modules leave out {module}, which it has factors for")
        yield f"{stem(module)}.weight", _factor(file, heads, module, sides, rules)


def _open(adapter: Given) -> tuple[Path, _Rules, bool]:
    """Find an adapter's file and rules, and tell whether it is a reconstructor's single file."""
    path = adapter.path
    folder = path if path.is_dir() else path.parent
    forms = [name for name in (WEIGHTS, SINGLE) if (path / name if path.is_dir() else path) == folder / name
             and (folder / name).is_file()]  # fmt: skip
    if len(forms) != 1:
        raise AdapterError(f"{path} must have either {WEIGHTS} or {SINGLE}: is it the folder of a LoRA adapter?")
    single = forms[0] == SINGLE
    config = folder / (SINGLE_CONFIG if single else CONFIG)
    if not config.is_file():
        raise AdapterError(f"{folder} has no {config.name}, which says how its factors are scaled")
    read = _single_rules if single else _peft_rules
    try:
        return folder / forms[0], read(config, _read_json(config), adapter.use_rslora), single
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, AdapterError):
            raise
        raise AdapterError(f"{config} lacks {error}, or has it in another form") from None


def _peft_rules(path: Path, config: dict[str, Any], stated: bool | None) -> _Rules:
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
    return _Rules(
        rank=int(config["r"]),
        alpha=float(config["lora_alpha"]),
        use_rslora=_rslora(path, config.get("use_rslora", False), stated),
        ranks=config.get("rank_pattern") or {},
        alphas=config.get("alpha_pattern") or {},
        targets=config["target_modules"],
        excluded=config.get("exclude_modules") or (),
        blocks=[blocks] if isinstance(blocks, int) else blocks or (),
        block_names=_listed(config.get("layers_pattern")),
    )


def _single_rules(path: Path, config: dict[str, Any], stated: bool | None) -> _Rules:
    _refuse_unknown(path, config, _SINGLE_READ | _SINGLE_NO_MATTER)
    return _Rules(
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


def _modules(file: Path, heads: Iterable[str], *, backbone: bool) -> dict[str, dict[str, str]]:
    """Sort names of tensors by peft's name of the module, and by side."""
    found: dict[str, dict[str, str]] = {}
    adapters = set()
    for name in heads:
        if backbone and name.startswith("value_head."):
            continue
        match = _FACTOR.fullmatch(name)
        if match is None:
            reason = next((why for part, why in _FOREIGN.items() if part in name), "it is no factor")
            raise AdapterError(f"{file} holds {name}, which cannot be merged: {reason}")
        adapters.add(match["adapter"])
        module = match["module"].removeprefix("backbone." if backbone else "base_model.model.")
        found.setdefault(module, {})[match["side"]] = name
    if len(adapters) > 1:
        raise AdapterError(f"{file} holds several adapters, {', '.join(sorted(map(str, adapters)))}: save one alone")
    return found


def _factor(file: Path, heads: Mapping[str, Head], module: str, sides: Mapping[str, str], rules: _Rules) -> Factor:
    a, b, rank = heads[sides["A"]], heads[sides["B"]], rules.rank_of(module)
    if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != rank or b.shape[1] != rank:
        raise AdapterError(
            f"{file}: {module} has factors {list(a.shape)} and {list(b.shape)}, which are not of the rank {rank} that"
            " its configuration says"
        )
    if not {a.dtype, b.dtype} <= _FLOATS:
        raise AdapterError(f"{file}: the factors of {module} are {a.dtype} and {b.dtype}, which cannot be merged")
    return Factor(file, sides["A"], sides["B"], rules.scale_of(module), (b.shape[0], a.shape[1]))


def _check_values(factors: Mapping[str, Sequence[Factor]]) -> None:
    """Raise AdapterError where a factor holds NaN or infinite values."""
    import ml_dtypes  # noqa: F401 - with it numpy, and so safetensors, know bfloat16
    import numpy as np
    from safetensors import safe_open

    names: dict[Path, list[str]] = {}
    for factor in (factor for several in factors.values() for factor in several):
        names.setdefault(factor.file, []).extend((factor.a, factor.b))
    for file, inside in names.items():
        with safe_open(file, framework="numpy") as tensors:
            for name in inside:
                # The sum is NaN or infinite if any element is.
                if not math.isfinite(tensors.get_tensor(name).astype(np.float32).sum(dtype=np.float64)):
                    raise AdapterError(f"{file}: {name} has NaN or infinite values: export or fetch it again")


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


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise AdapterError(f"{path} is missing, or not JSON") from None
    if not isinstance(content, dict):
        raise AdapterError(f"{path} is not a JSON object")
    return content


def main() -> int:
    """Check what stands on stdin, {base, adapters, blocks, tied}; a fault is one line on stdout, and exit code 1."""
    wanted = json.load(sys.stdin)
    try:
        adapters = [Given(Path(given["path"]), given["use_rslora"]) for given in wanted["adapters"]]
        check(Path(wanted["base"]), adapters, wanted["blocks"], tied=wanted["tied"])
    except AdapterError as error:
        sys.stdout.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
