"""What programs give, in the forms that they have it in."""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

_KEYS: Final = re.compile(r"^([a-z][a-z0-9+.-]+://)[^/@]*@")


def as_found_again(path: str) -> str:
    """A path or URI as it means the same from any folder; without keys that it holds, for it is written down."""
    return _KEYS.sub(r"\1", path) if "://" in path else str(Path(path).expanduser().absolute())


def as_list(given: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[str]:
    """Paths, URLs or names as a list of str; one may stand alone."""
    if isinstance(given, str):
        return [given]
    if isinstance(given, os.PathLike):
        return [os.fspath(given)]
    return [os.fspath(one) for one in given]
