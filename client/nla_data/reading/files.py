"""Which files are meant, on which filesystem. It knows paths and URIs, nothing of what is in the files."""

import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final, TypeVar
from urllib.parse import quote

import orjson
import pyarrow as pa
from pyarrow import fs

from nla_data.errors import UsageError
from nla_data.reading import walking

S = TypeVar("S")
T = TypeVar("T")
SUFFIXES: Final = (
    ".parquet", ".pq", ".parq", ".arrow", ".arrows", ".feather", ".ipc", ".jsonl", ".ndjson", ".npy", ".npz",
    ".safetensors", ".pt", ".pth",
)  # fmt: skip
COMPRESSIONS: Final = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}
"""By the last ending of JSON lines that are packed, what they are packed with."""
_PACKED: Final = (".jsonl", ".ndjson")
_COMPANIONS: Final = ("README.md", "dataset_dict.json", "dataset_info.json", "state.json")
"""What lies beside files of vectors, and is none: nobody expects its rows."""
SIDECAR_ENDING: Final = ".nla_meta.yaml"
"""Of the name of a data set's sidecar, after that of its file."""
_SAVED: Final = "state.json"
"""Where `save_to_disk` of Hugging Face's datasets names a folder's files."""
_SHOWN: Final = 3
_READERS: Final = 16
"""Files that are looked at at once: on object storage each takes a while."""
_URI: Final = re.compile(r"^[a-z][a-z0-9+.-]+://")
_PARTS: Final = re.compile(r"(?P<root>[a-z][a-z0-9+.-]+://[^/]*)(?P<path>.*?)(?P<query>\?[A-Za-z_]\w*=.*)?", re.DOTALL)
"""A `?` begins the query only where `name=` comes after it; any other is a glob's."""
_KEPT: Final = "/%:@!$&'()*+,;=~"
"""What stays as it is in the path of a URI; `%` since it may be quoted already."""


@dataclass(frozen=True)
class File:
    """One input file, as it was when it was found."""

    filesystem: Any
    path: str
    size: int
    modified_ns: int

    @property
    def suffix(self) -> str:
        """Ending of the name, in lower case; without that of its packing."""
        name = self.path.lower()
        return PurePosixPath(name.removesuffix(self.packing) if self.packing else name).suffix

    @property
    def packing(self) -> str:
        """The last ending, where it tells how the file is packed; else nothing."""
        last = PurePosixPath(self.path.lower()).suffix
        return last if last in COMPRESSIONS else ""

    @property
    def is_known(self) -> bool:
        """Whether it is of a kind that can be read."""
        return self.suffix in (_PACKED if self.packing else SUFFIXES)

    def open(self) -> Any:
        """Open it for reading at any place (a pyarrow.NativeFile)."""
        try:
            return self.filesystem.open_input_file(self.path)
        except OSError as error:
            raise UsageError(f"{self.path}: cannot be read: {reason(error)}") from error

    def open_stream(self, compression: str | None) -> Any:
        """Open it for reading from its beginning, unpacked."""
        try:
            return self.filesystem.open_input_stream(self.path, compression=compression)
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


def find(
    inputs: Iterable[str], leave_out: Sequence[str] = (), warn: Callable[[str], None] = lambda _: None
) -> list[File]:
    """All files that paths, folders and globs mean: in the given order, within a folder or glob by name.

    Args:
        inputs: Paths and URIs.
        leave_out: Paths of an output, which may lie in a folder of the input.
        warn: Is told of files that are left out.

    Raises:
        UsageError: one of them means no file, a file whose kind is not known, or one that is not there.
    """
    found = [file for given in inputs for file in _find_one(given, tuple(leave_out), warn)]
    if len({file.path for file in found}) < len(found):
        raise UsageError("an input file is named twice: its rows would come twice")
    return found


def _find_one(given: str, leave_out: tuple[str, ...], warn: Callable[[str], None]) -> list[File]:
    filesystem, path = locate(given)
    try:
        info = filesystem.get_file_info(path)
        if info.type == fs.FileType.NotFound and walking.is_wild(path):
            infos = list(walking.matching(filesystem, path, leave_out))
        elif info.type == fs.FileType.Directory:
            infos = list(walking.below(filesystem, path, leave_out))
        else:
            return [_one(filesystem, info, given)]
        return _known(given, infos, filesystem, warn)
    except OSError as error:
        raise UsageError(f"{given}: {reason(error)}") from error


def _one(filesystem: Any, info: Any, given: str) -> File:
    if info.type == fs.FileType.NotFound:
        raise UsageError(f"{given}: there is no such file or folder")
    file = _file(filesystem, info)
    if not file.is_known:
        raise UsageError(f"{given}: not a kind of file that can be read; these can: {', '.join(SUFFIXES)}")
    return file


def _known(given: str, infos: Sequence[Any], filesystem: Any, warn: Callable[[str], None]) -> list[File]:
    """Those of a folder or glob that can be read."""
    seen = [_file(filesystem, info) for info in sorted(infos, key=lambda info: info.path)]
    files = [file for file in seen if file.is_known]
    broken = {info.path for info in infos if info.type == fs.FileType.NotFound}
    for file in files:
        if file.path in broken:
            raise UsageError(f"{file.path}: a link to a file that is not there")
    files = _saved(filesystem, files, [file.path for file in seen])
    if not files:
        raise UsageError(f"{given}: no file there ends in one of {', '.join(SUFFIXES)}")
    read = {file.path for file in files}
    rest = [file.path for file in seen if file.path not in read and not _is_companion(file.path)]
    if rest:
        more = f" and {len(rest) - _SHOWN} more" if len(rest) > _SHOWN else ""
        warn(f"{given}: left out, since they are no files of vectors: {', '.join(rest[:_SHOWN])}{more}")
    return files


def _is_companion(path: str) -> bool:
    name = PurePosixPath(path).name
    return name in _COMPANIONS or name.endswith(SIDECAR_ENDING)


def _saved(filesystem: Any, files: Sequence[File], paths: Sequence[str]) -> list[File]:
    """Without what is no part of a data set in folders of Hugging Face's `save_to_disk`: what was cached there."""
    kept = list(files)
    for path in paths:
        folder, _, name = path.rpartition("/")
        if name != _SAVED:
            continue
        named = _named(filesystem, path)
        missing = [name for name in named if f"{folder}/{name}" not in paths]
        if missing:
            raise UsageError(f"{path}: names {missing[0]!r}, which is not there")
        kept = [
            file for file in kept if file.path.rpartition("/")[0] != folder or file.path[len(folder) + 1 :] in named
        ]
    return kept


def _named(filesystem: Any, path: str) -> list[str]:
    """The files of a saved data set, or nothing where it is another kind of file."""
    with filesystem.open_input_stream(path) as stream:
        try:
            state = orjson.loads(stream.read())
            if state.get("_indices_data_files") or state.get("_indices_files"):
                raise UsageError(f"{path}: its rows have an index, which is not read: load it, and save it again")
            return [entry["filename"] for entry in state["_data_files"]]
        except (ValueError, KeyError, TypeError, AttributeError):
            return []


def _file(filesystem: Any, info: Any) -> File:
    return File(filesystem, info.path, info.size or 0, info.mtime_ns or 0)


def at_once(look: Callable[[S], T], files: Iterable[S]) -> list[T]:
    """Look at many files, several at a time; what was found, in order."""
    with ThreadPoolExecutor(_READERS) as pool:
        return list(pool.map(look, files))
