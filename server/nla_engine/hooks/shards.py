"""A hook on loading, in the scheduler: files of weights that a model's first blocks do not need.

Of a source, and of a reconstructor's base, these are neither missed nor read.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from nla_engine.checkpoint import Checkpoint


def of_first_blocks(
    original: Callable[..., list[str]], files: list[str], folder: str, index_file: str, *args: Any, **kwargs: Any
) -> list[str]:
    """Choose a checkpoint's files of weights: of those that nla-serve names, where it does, the ones that are there.

    SGLang wants all that the index names, and reads them all. What is missing of what is needed shows once it is
    loaded; see weights.py.

    Args:
        original: SGLang's choice, for a checkpoint of which all files count.
        files: those that are there.
        folder: where.
        index_file: the index's name.
        args: further ones of SGLang's.
        kwargs: further ones of SGLang's.
    """
    wanted = Checkpoint.told().files
    if wanted is None:
        return original(files, folder, index_file, *args, **kwargs)
    return [file for file in files if Path(file).name in wanted]
