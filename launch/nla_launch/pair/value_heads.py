"""Value heads: where a reconstructor's is, and in which form."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from nla_gateway.description import Origin, ValueHead
from nla_gateway.errors import CheckpointError
from nla_launch.pair.checkpoints import SINGLE, SINGLE_CONFIG, VALUE_HEAD
from nla_launch.pair.heads import read_heads, weight_map
from nla_launch.pair.origins import Origins
from nla_launch.pair.rules import HeadRule, ReconstructorRules
from nla_launch.pair.shards import is_final_norm, missing_files

FILES: Final = (VALUE_HEAD, SINGLE, "value_heads.safetensors", "linear_head.safetensors")
"""Where trainers put heads; in all but the first they may stand beside other tensors."""
PREFIX: Final = "value_head."
BY_LAYER: Final = re.compile(r"(?:value_)?heads?\.\d+\.weight")
FIELD: Final = "reconstructor.value_head"
NO_HEAD: Final = (
    "which a reconstructor needs. Is there a *.pt instead, fetch it, and convert it by nla-convert. Was it trained"
    " without, add `reconstructor: {value_head: none}` to a preset"
)


def find_head(folders: Sequence[Path], rules: ReconstructorRules, origins: Origins) -> ValueHead | None:
    """Find a reconstructor's value head; None where it has none, as stated.

    Args:
        folders: where its files may be, those that come first first.
        rules: what a preset states.
        origins: where it is written down who stated it.

    Raises:
        CheckpointError: there is none, and nothing states so, or one of a form that is not served.
    """
    stated = rules.value_head
    if isinstance(stated, HeadRule):
        origins.found[FIELD] = Origin.PRESET
        return ValueHead(file=_at(stated.file, folders), weight=stated.weight, bias=stated.bias)
    if stated == "none":
        origins.found[FIELD] = Origin.PRESET
        return None
    found = [folder / name for folder in folders for name in FILES if (folder / name).is_file()]
    files = [file for file in found if file.name == VALUE_HEAD or _names_in(file)]
    if files:
        origins.found[FIELD] = Origin.WEIGHTS
        return _head_in(files[0])
    if not any(True for folder in folders for _ in folder.glob("*.safetensors")) or any(map(_is_to_come, folders)):
        origins.found[FIELD] = Origin.ASSUMED
        return ValueHead(file=folders[-1] / VALUE_HEAD, weight="weight")
    pickled = next((path for folder in folders for path in sorted(folder.glob("*head*.pt"))), None)
    if pickled is not None:
        raise CheckpointError(
            f"{pickled} is a pickle, which may run anything when it is read: convert it by `nla-convert {pickled}`"
        )
    raise CheckpointError(f"{folders[-1]} has no {VALUE_HEAD}, {NO_HEAD}")


def read_head(head: ValueHead) -> list[NDArray[np.float32]]:
    """Read a head's matrix, and its bias if it has one.

    Raises:
        CheckpointError: the file or one of its tensors is missing.
    """
    if not head.file.is_file():
        raise CheckpointError(f"{head.file} is not there: it is to have the value head, {NO_HEAD}")
    names = [head.weight, *([head.bias] if head.bias is not None else [])]
    there = list(read_heads(head.file))
    with _opened(head.file) as tensors:
        missing = next((name for name in names if name not in there), None)
        if missing is not None:
            raise CheckpointError(f"{head.file} has no `{missing}`; it has {_listed(there)}")
        return [tensors.get_tensor(name).astype(np.float32) for name in names]


def has_final_norm(folder: Path) -> bool | None:
    """Tell whether a checkpoint's weights have a final norm; None where they are not here."""
    names = list(_tensor_names(folder))
    if not names:
        return None
    return any(map(is_final_norm, names))


def _names_in(file: Path) -> list[str]:
    """List the tensors that are a head's; in a file of its own, all are."""
    return [name for name in read_heads(file) if file.name == VALUE_HEAD or "head" in name.split(".")[0]]


def _head_in(file: Path) -> ValueHead:
    names = _names_in(file)
    if any(BY_LAYER.fullmatch(name) for name in names):
        raise CheckpointError(
            f"{file} has heads by layer, {_listed(names)}, and nla-serve serves one layer: name its head,"
            f" `reconstructor: {{value_head: {{file: {file.name}, weight: {names[0]}}}}}`, and `layer: N` in a preset"
        )
    for prefix in ("", PREFIX):
        weight, bias = f"{prefix}weight", f"{prefix}bias"
        if weight in names and set(names) <= {weight, bias}:
            return ValueHead(file=file, weight=weight, bias=bias if bias in names else None)
    raise CheckpointError(
        f"{file} has the keys {_listed(names)}, not `weight` alone or with `bias`: if one of them is the value head,"
        f" add `reconstructor: {{value_head: {{file: {file.name}, weight: KEY}}}}` to a preset"
    )


def _at(file: str, folders: Sequence[Path]) -> Path:
    """Find a stated file: in the checkpoint's folders, or at a path of its own."""
    found = next((folder / file for folder in folders if (folder / file).is_file()), None)
    if found is None and Path(file).is_file():
        found = Path(file).resolve()
    if found is not None and found.suffix != ".safetensors":
        raise CheckpointError(f"{found} is no file of safetensors: convert it by `nla-convert {found}`")
    return folders[-1] / file if found is None else found


def _is_to_come(folder: Path) -> bool:
    """Whether some of its weights are not here yet."""
    if not folder.is_dir():
        return True
    configs = ("adapter_config.json", SINGLE_CONFIG)
    adapter = any((folder / name).is_file() for name in configs) and not any(folder.glob("*.safetensors"))
    return adapter or bool(missing_files(folder))


def _tensor_names(folder: Path) -> Iterator[str]:
    if (named := weight_map(folder)) is not None:
        yield from named
        return
    for file in folder.glob("*.safetensors"):
        if file.name not in FILES:
            yield from read_heads(file)


def _opened(file: Path) -> Any:
    import ml_dtypes  # noqa: F401 - with it numpy, and so safetensors, know bfloat16
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(file, framework="numpy")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} does not load: {error}") from None


def _listed(names: Sequence[str]) -> str:
    shown = [f"`{name}`" for name in names[:8]]
    return ", ".join([*shown, "..."] if len(names) > len(shown) else shown) or "nothing"
