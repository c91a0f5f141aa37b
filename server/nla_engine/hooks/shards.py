"""A hook on loading, in the scheduler: files of weights that a source does not need are neither missed nor read."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from nla_engine.checkpoint import Checkpoint

BLOCK: Final = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.")
NOT_LOADED: Final = re.compile(r"(?:^|\.)(?:vision|visual|audio|mtp)[^.]*\.|multi_modal")
BEHIND_ALL: Final = re.compile(r"(?:\w+\.)*lm_head\.\w+|(?:(?!\w*embed)\w+\.)*norm\.weight")


def of_first_blocks(
    original: Callable[..., list[str]], files: list[str], folder: str, index_file: str, *args: Any, **kwargs: Any
) -> list[str]:
    """Choose a checkpoint's files of weights: those of its index that hold what the first blocks need, and are there.

    SGLang wants all that the index names, and reads them all. What is missing of what is needed shows once it is
    loaded; see weights.py.

    Args:
        original: SGLang's choice, for a checkpoint without an index.
        files: those that are there.
        folder: where.
        index_file: the index's name.
        args: further ones of SGLang's.
        kwargs: further ones of SGLang's.
    """
    blocks, index = Checkpoint.told().blocks, Path(folder) / index_file
    if blocks is None or not index.is_file():
        return original(files, folder, index_file, *args, **kwargs)
    named: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    wanted = {file for name, file in named.items() if _is_wanted(name, blocks)}
    return [file for file in files if Path(file).name in wanted]


def _is_wanted(name: str, blocks: int) -> bool:
    if NOT_LOADED.search(name):
        return False
    block = BLOCK.search(name)
    return BEHIND_ALL.fullmatch(name) is None if block is None else int(block[1]) < blocks
