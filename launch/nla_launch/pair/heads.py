"""Heads of safetensors files: names, types and shapes of tensors, without loading any."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nla_launch.errors import LaunchError

INDEX: Final = "model.safetensors.index.json"
_LARGEST: Final = 100_000_000
"""safetensors' own limit of a head's bytes."""


@dataclass(frozen=True)
class Head:
    """One tensor."""

    dtype: str
    """In the file's own words: BF16, F32, F8_E4M3."""
    shape: tuple[int, ...]
    size: int
    """In bytes."""

    @property
    def values(self) -> int:
        """Number of its elements."""
        return math.prod(self.shape)


def read_heads(path: Path) -> dict[str, Head]:
    """Read a file's head.

    Raises:
        LaunchError: it is no file of safetensors.
    """
    try:
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            content = json.loads(stream.read(min(length, _LARGEST)))
        return {
            name: Head(one["dtype"], tuple(one["shape"]), one["data_offsets"][1] - one["data_offsets"][0])
            for name, one in content.items()
            if name != "__metadata__"
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise LaunchError(f"{path} is missing, or no file of safetensors: fetch it again") from None


def weight_heads(folder: Path, *, missing_ok: bool = False) -> Iterator[tuple[str, Head]]:
    """Read the heads of a checkpoint's weights: of the files in its index, where it has one.

    Args:
        folder: the checkpoint's.
        missing_ok: leave out files that are named and not there.

    Raises:
        LaunchError: a file is missing or no file of safetensors.
    """
    for path in weight_files(folder):
        if path.exists() or not missing_ok:
            yield from read_heads(path).items()


def weight_map(folder: Path) -> dict[str, str] | None:
    """Read in which file each of a checkpoint's weights is; None where there is no index.

    Raises:
        LaunchError: the index is none.
    """
    index = folder / INDEX
    if not index.is_file():
        return None
    try:
        return dict(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
    except (ValueError, KeyError, TypeError, AttributeError):
        raise LaunchError(f"{index} is no index of safetensors: fetch it again") from None


def weight_files(folder: Path) -> list[Path]:
    """List the files of a checkpoint's weights: those in its index, where it has one, there or not.

    Raises:
        LaunchError: the index is none.
    """
    named = weight_map(folder)
    if named is None:
        return sorted(folder.glob("*.safetensors"))
    return [folder / name for name in sorted(set(named.values()))]
