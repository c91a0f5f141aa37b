"""Local copies, as long as the process lives, of what can only be read from a local file: made once, then kept."""

import atexit
import functools
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from pyarrow import fs

from nla_data.reading.files import File

_COPY_BYTES: Final = 8 * 2**20
_kept: Final[dict[tuple[str, int, int, str | None], str]] = {}


def kept(file: File, member: str | None, start_reading: Callable[[], Any]) -> str:
    """Path of a copy of a file, or of a member of an archive; the copy goes with the process."""
    key = (file.path, file.size, file.modified_ns, member)
    if key not in _kept:
        path = Path(_folder(), f"{len(_kept)}")
        with start_reading() as stream, path.open("wb") as copy:
            shutil.copyfileobj(stream, copy, _COPY_BYTES)
        _kept[key] = str(path)
    return _kept[key]


def local(file: File) -> str:
    """Path of a file on a local disk: its own, or that of a copy."""
    return file.path if isinstance(file.filesystem, fs.LocalFileSystem) else kept(file, None, file.open)


@functools.cache
def _folder() -> str:
    folder = tempfile.mkdtemp(prefix="nla-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def skip(stream: Any, size: int) -> None:
    """Read on without keeping anything."""
    while size > 0:
        size -= len(stream.read(min(size, _COPY_BYTES))) or size
