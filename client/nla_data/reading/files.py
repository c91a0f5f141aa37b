"""Which files are meant, on which filesystem. It knows paths and URIs, nothing of what is in the files."""

import fnmatch
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final
from urllib.parse import quote

import pyarrow as pa
from pyarrow import fs

from nla_data.errors import UsageError

SUFFIXES: Final = (
    ".parquet", ".arrow", ".feather", ".ipc", ".jsonl", ".ndjson", ".npy", ".npz", ".safetensors", ".pt", ".pth",
)  # fmt: skip
_URI: Final = re.compile(r"^[a-z][a-z0-9+.-]+://")
_PARTS: Final = re.compile(r"(?P<root>[a-z][a-z0-9+.-]+://[^/]*)(?P<path>.*?)(?P<query>\?[A-Za-z_]\w*=.*)?", re.DOTALL)
"""A `?` begins the query only where `name=` comes after it; any other is a glob's."""
_KEPT: Final = "/%:@!$&'()*+,;=~"
"""What stays as it is in the path of a URI; `%` since it may be quoted already."""
_WILD: Final = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class File:
    """One input file, as it was when it was found."""

    filesystem: Any
    path: str
    size: int
    modified_ns: int

    @property
    def suffix(self) -> str:
        """Ending of the name, in lower case."""
        return PurePosixPath(self.path).suffix.lower()

    def open(self) -> Any:
        """Open it for reading at any place (a pyarrow.NativeFile)."""
        try:
            return self.filesystem.open_input_file(self.path)
        except OSError as error:
            raise UsageError(f"{self.path}: cannot be read: {reason(error)}") from error


def reason(error: Exception) -> str:
    """First line of what an operating system's or a library's error says."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(text).splitlines()[0]


def locate(path: str) -> tuple[Any, str]:
    """The filesystem of a path or URI (s3://, gs://, hdfs://, file://), and the path on it.

    Raises:
        UsageError: no such filesystem, or one that cannot be used here.
    """
    try:
        if not _URI.match(path):
            return fs.LocalFileSystem(), str(Path(path).expanduser().absolute())
        filesystem, inner = fs.FileSystem.from_uri(_quoted(path))
    except (pa.ArrowException, OSError, ValueError, RuntimeError) as error:
        raise UsageError(f"{path}: {reason(error)}") from error
    return filesystem, inner


def _quoted(uri: str) -> str:
    """A URI whose path may have blanks, and a glob's `?` and `[`, as pyarrow takes it."""
    match = _PARTS.fullmatch(uri)
    return match["root"] + quote(match["path"], safe=_KEPT) + (match["query"] or "") if match else uri


def find(inputs: Iterable[str], leave_out: Sequence[str] = ()) -> list[File]:
    """All files that paths, folders and globs mean: in the given order, within a folder or glob by name.

    Args:
        inputs: Paths and URIs.
        leave_out: Paths of an output, which may lie in a folder of the input.

    Raises:
        UsageError: one of them means no file, or a file whose kind is not known.
    """
    found = [file for given in inputs for file in _find_one(given, tuple(leave_out))]
    if len({file.path for file in found}) < len(found):
        raise UsageError("an input file is named twice: its rows would come twice")
    return found


def _find_one(given: str, leave_out: tuple[str, ...]) -> list[File]:
    filesystem, path = locate(given)
    wild = bool(_WILD.search(path)) and _info(filesystem, path, given).type == fs.FileType.NotFound
    if wild:
        below = _below(filesystem, _fixed_part(path), given)
        matching = [info for info in below if _matches(info.path, path)]
        return _known(given, _not_below(matching, _fixed_part(path), leave_out), filesystem)
    info = _info(filesystem, path, given)
    if info.type == fs.FileType.NotFound:
        raise UsageError(f"{given}: there is no such file or folder")
    if info.type == fs.FileType.Directory:
        below = _not_below(_below(filesystem, path, given), path, leave_out)
        return _known(given, below, filesystem)
    file = _file(filesystem, info)
    if file.suffix not in SUFFIXES:
        raise UsageError(f"{given}: not a kind of file that can be read; these can: {', '.join(SUFFIXES)}")
    return [file]


def _known(given: str, infos: Sequence[Any], filesystem: Any) -> list[File]:
    """Those of a folder or glob that can be read."""
    files = [_file(filesystem, info) for info in sorted(infos, key=lambda info: info.path) if info.is_file]
    files = [file for file in files if file.suffix in SUFFIXES]
    if not files:
        raise UsageError(f"{given}: no file there ends in one of {', '.join(SUFFIXES)}")
    return files


def _not_below(infos: Sequence[Any], folder: str, leave_out: tuple[str, ...]) -> list[Any]:
    """Without hidden ones (`_` and `.`, as Spark and pyarrow have it), and without the output."""
    return [
        info
        for info in infos
        if not any(part[0] in "._" for part in PurePosixPath(info.path).relative_to(folder).parts)
        and not any(info.path == out or info.path.startswith(f"{out}/") for out in leave_out)
    ]


def _file(filesystem: Any, info: Any) -> File:
    return File(filesystem, info.path, info.size or 0, info.mtime_ns or 0)


def _info(filesystem: Any, path: str, given: str) -> Any:
    try:
        return filesystem.get_file_info(path)
    except OSError as error:
        raise UsageError(f"{given}: {reason(error)}") from error


def _below(filesystem: Any, folder: str, given: str) -> list[Any]:
    selector = fs.FileSelector(folder, allow_not_found=True, recursive=True)
    try:
        infos: list[Any] = filesystem.get_file_info(selector)
    except OSError as error:
        raise UsageError(f"{given}: {reason(error)}") from error
    return infos


def _fixed_part(path: str) -> str:
    parts = PurePosixPath(path).parts
    fixed = next((k for k, part in enumerate(parts) if _WILD.search(part)), len(parts))
    return str(PurePosixPath(*parts[:fixed]))


def _matches(path: str, pattern: str) -> bool:
    """Part by part, so that `*` stays within one; `**` stands for any number of parts."""
    return _match_parts(PurePosixPath(path).parts, PurePosixPath(pattern).parts)


def _match_parts(parts: Sequence[str], patterns: Sequence[str]) -> bool:
    if not patterns:
        return not parts
    if patterns[0] == "**":
        return any(_match_parts(parts[k:], patterns[1:]) for k in range(len(parts) + 1))
    return bool(parts) and fnmatch.fnmatchcase(parts[0], patterns[0]) and _match_parts(parts[1:], patterns[1:])
