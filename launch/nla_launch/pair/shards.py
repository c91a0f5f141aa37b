"""Which of a checkpoint's weights the first blocks of its model need, and in which files these are."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nla_gateway.pair.blocks import block_of
from nla_launch.pair.heads import weight_map

NOT_OURS: Final = re.compile(r"(?:^|\.)(?:vision|visual|audio|mtp)[^.]*\.|multi_modal")
"""Parts that are not loaded: of vision and the like, and what guesses further tokens."""
FINAL_NORM: Final = re.compile(r"(?:\w+\.)*?(?:norm|norm_f|final_layernorm|ln_f|embedding_norm)\.weight")
HEAD: Final = re.compile(r"(?:^|\.)lm_head\.")


@dataclass(frozen=True)
class Part:
    """What is taken of a model: its first blocks, with the embedding table and without lm_head."""

    blocks: int
    final_norm: bool = False
    """Whether the norm behind the last block is, too."""
    beside: tuple[str, ...] = ()
    """Files that are, where they are there, whatever the index says."""


def is_final_norm(name: str) -> bool:
    """Whether a tensor is the norm behind the last block."""
    return FINAL_NORM.fullmatch(name) is not None and block_of(name) is None


def is_wanted(name: str, part: Part) -> bool:
    """Whether a part of a model needs a tensor: an unknown one, too."""
    if NOT_OURS.search(name):
        return False
    block = block_of(name)
    if block is not None:
        return block < part.blocks
    return HEAD.search(name) is None and (part.final_norm or "embed" in name or not is_final_norm(name))


def wanted_files(folder: Path, part: Part) -> list[str] | None:
    """Name the files that hold what a part of the model needs, by the index; None where there is no index.

    Raises:
        LaunchError: the index is none.
    """
    named = weight_map(folder)
    if named is None:
        return None
    return sorted({file for name, file in named.items() if is_wanted(name, part)})


def missing_files(folder: Path, part: Part | None = None) -> list[str]:
    """Name the files that are not there, of those in the index that hold what a part needs; None: of all.

    Raises:
        LaunchError: the index is none.
    """
    if part is None:
        named: Iterable[str] = sorted(set((weight_map(folder) or {}).values()))
    else:
        named = wanted_files(folder, part) or ()
    return [name for name in named if not (folder / name).is_file()]
