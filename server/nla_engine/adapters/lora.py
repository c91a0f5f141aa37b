"""LoRA adapters as files: which factors they hold, for which weights, and whether those are theirs.

Knows neither torch nor SGLang, so that nla-serve can ask in a moment, before any engine starts; see lora_check.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nla_engine.adapters.files import AdapterError, Head, read_heads
from nla_engine.adapters.rules import Rules, read_rules
from nla_engine.checkpoint import Given

CONFIG: Final = "adapter_config.json"
WEIGHTS: Final = "adapter_model.safetensors"
SINGLE: Final = "ar_lora_value_head.safetensors"
"""A reconstructor's factors and value head in one file."""
SINGLE_CONFIG: Final = "ar_meta.json"
_FACTOR: Final = re.compile(r"(?P<module>.+)\.lora_(?P<side>[AB])(?:\.(?P<adapter>[^.]+))?\.weight")
_WRAPPERS: Final = frozenset({"base_model", "model", "language_model", "backbone", "transformer"})
"""What may stand before a weight's name, by the class that it was saved from."""
_BLOCK: Final = re.compile(r"(?:layers|h)\.(\d+)\.")
_FOREIGN: Final = {
    "lora_magnitude_vector": "DoRA also scales whole rows",
    "lora_embedding_": "adapters of embeddings are not merged",
}
_FLOATS: Final = frozenset({"F64", "F32", "F16", "BF16"})


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


def _open(adapter: Given) -> tuple[Path, Rules, bool]:
    """Find an adapter's file and rules, and tell whether it is a reconstructor's single file."""
    path = adapter.path
    folder = path if path.is_dir() else path.parent
    wanted = (WEIGHTS, SINGLE) if path.is_dir() else {WEIGHTS, SINGLE} & {path.name}
    forms = [name for name in wanted if (folder / name).is_file()]
    if len(forms) != 1:
        raise AdapterError(f"{path} must have either {WEIGHTS} or {SINGLE}: is it the folder of a LoRA adapter?")
    single = forms[0] == SINGLE
    config = folder / (SINGLE_CONFIG if single else CONFIG)
    return folder / forms[0], read_rules(config, adapter.use_rslora, single=single), single


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


def _factor(file: Path, heads: Mapping[str, Head], module: str, sides: Mapping[str, str], rules: Rules) -> Factor:
    a, b, rank = heads[sides["A"]], heads[sides["B"]], rules.rank_of(module)
    if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != rank or b.shape[1] != rank:
        raise AdapterError(
            f"{file}: {module} has factors {list(a.shape)} and {list(b.shape)}, which are not of the rank {rank} that"
            " its configuration says"
        )
    if not {a.dtype, b.dtype} <= _FLOATS:
        raise AdapterError(f"{file}: the factors of {module} are {a.dtype} and {b.dtype}, which cannot be merged")
    return Factor(file, sides["A"], sides["B"], rules.scale_of(module), (b.shape[0], a.shape[1]))
