"""Files of adapters and of bases: JSON, and heads of safetensors. Without torch, which takes seconds to import."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

INDEX: Final = "model.safetensors.index.json"


class AdapterError(ValueError):
    """An adapter that cannot be merged; its text is one line that names cause and mend."""


@dataclass(frozen=True)
class Head:
    """A tensor in a file, not loaded."""

    dtype: str
    """In the file's own words: BF16, F32, F8_E4M3."""
    shape: tuple[int, ...]


def weight_files(folder: Path) -> list[Path]:
    """List the files of a checkpoint's weights: those in its index where it has one."""
    if (folder / INDEX).is_file():
        return [folder / name for name in sorted(set(weight_names(folder).values()))]
    return sorted(folder.glob("*.safetensors"))


def weight_names(folder: Path) -> dict[str, str]:
    """Read in which file each of a checkpoint's weights is, by its index.

    Raises:
        AdapterError: there is none.
    """
    return dict(read_json(folder / INDEX)["weight_map"])


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


def read_json(path: Path) -> dict[str, Any]:
    """Read an object.

    Raises:
        AdapterError: the file is missing, or has none.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise AdapterError(f"{path} is missing, or not JSON") from None
    if not isinstance(content, dict):
        raise AdapterError(f"{path} is not a JSON object")
    return content
