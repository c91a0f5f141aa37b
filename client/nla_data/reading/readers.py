"""Reads an input file of any kind as a stream of record batches from a given row on, never the whole file at once.

Arrays (numpy, safetensors, torch) and JSON lines have modules of their own; the rest is pyarrow's.
"""

import tokenize
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
from pyarrow import fs

from nla_data.errors import UsageError
from nla_data.reading import json_lines, numpy_files, tensors
from nla_data.reading.arrays import Arrays
from nla_data.reading.files import File, reason
from nla_data.reading.look import Look, Stopped

BATCH_BYTES: Final = 2 * 2**20
"""About what a batch of rows holds."""
MAX_BATCH_ROWS: Final = 1024
_STREAM_BUFFER: Final = 2**20
_BROKEN: Final = (
    pa.ArrowException, OSError, ValueError, EOFError, KeyError, AttributeError, TypeError, NotImplementedError,
    OverflowError, tokenize.TokenError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
"""What libraries raise for files that are damaged or are not what their names say."""

Batches = Iterator[Any]
"""pyarrow.RecordBatch, one after the other."""


def look(file: File, column: str, stopped: Stopped = lambda: False) -> Look:
    """See what a file has; `column` names its vectors, and is the name of one nameless array.

    Raises:
        UsageError: not what its name says, or broken.
    """
    try:
        return _told_once(_KINDS[file.suffix].look(file, column, stopped))
    except _BROKEN as error:
        raise UsageError(f"{file.path}: not a whole {file.suffix} file: {reason(error)}") from error


def batches(file: File, column: str, found: Look, start: int, names: Sequence[str]) -> Batches:
    """The rows of a file from one on, with these columns; `found` is what a look has found.

    Raises:
        UsageError: it cannot be read to its end.
    """
    try:
        for batch in _KINDS[file.suffix].batches(file, column, found, start, names):
            yield batch.select(names)
    except _BROKEN as error:
        raise UsageError(f"{file.path}: breaks off or is damaged: {reason(error)}") from error


def rows_per_batch(row_bytes: float) -> int:
    """How many rows of a size to read at once."""
    return max(1, min(MAX_BATCH_ROWS, int(BATCH_BYTES // max(row_bytes, 1))))


def _told_once(found: Look) -> Look:
    """Names that stand for two columns are of no use."""
    twice = {name for name, count in Counter(found.schema.names).items() if count > 1}
    if not twice:
        return found
    fields = [field for field in found.schema if field.name not in twice]
    troubles = found.troubles | dict.fromkeys(sorted(twice), "stands for two columns")
    return Look(pa.schema(fields, found.schema.metadata), found.rows, troubles, found.left_out)


def _look_at_parquet(file: File, _column: str, _stopped: Stopped) -> Look:
    parquet = pq.ParquetFile(file.open())
    return Look(parquet.schema_arrow, parquet.metadata.num_rows)


def _parquet(file: File, _column: str, _found: Look, start: int, names: Sequence[str]) -> Batches:
    # Column chunks are read through a buffer, or a file that is one row group would be in memory whole.
    parquet = pq.ParquetFile(file.open(), buffer_size=_STREAM_BUFFER, pre_buffer=False)
    meta = parquet.metadata
    stored = sum(meta.row_group(group).total_byte_size for group in range(meta.num_row_groups))
    count = rows_per_batch(stored / max(meta.num_rows, 1))
    for group in range(meta.num_row_groups):
        rows = meta.row_group(group).num_rows
        if start < rows:
            read = parquet.iter_batches(count, row_groups=[group], columns=list(names), use_threads=False)
            yield from _from_row(read, start)
        start = max(0, start - rows)


def _look_at_arrow(file: File, _column: str, _stopped: Stopped) -> Look:
    return Look(_arrow_reader(file).schema, None)


def _arrow(file: File, _column: str, _found: Look, start: int, _names: Sequence[str]) -> Batches:
    reader = _arrow_reader(file)
    if isinstance(reader, pa.ipc.RecordBatchStreamReader):
        return _from_row(iter(reader), start)
    return _from_row((reader.get_batch(k) for k in range(reader.num_record_batches)), start)


def _arrow_reader(file: File) -> Any:
    """Of a file with an index at its end, or of a stream without one."""
    try:
        return pa.ipc.open_file(_mapped(file))
    except pa.ArrowInvalid:
        return pa.ipc.open_stream(_mapped(file))


def _mapped(file: File) -> Any:
    """A local file as memory that the system may drop: a batch of Arrow is read whole, and may be a whole file."""
    is_local = isinstance(file.filesystem, fs.LocalFileSystem) and file.size
    return pa.memory_map(file.path) if is_local else file.open()


def _json_lines(file: File, _column: str, found: Look, start: int, names: Sequence[str]) -> Batches:
    return json_lines.batches(file, found, start, names, rows_per_batch)


def _from_row(read: Iterator[Any], start: int) -> Batches:
    """Leave out the first `start` rows, and cut what is too long."""
    for batch in read:
        for begin in range(min(start, batch.num_rows), batch.num_rows, MAX_BATCH_ROWS):
            yield batch.slice(begin, MAX_BATCH_ROWS)
        start = max(0, start - batch.num_rows)


@dataclass(frozen=True)
class _Kind:
    """How files of a kind are read."""

    look: Callable[[File, str, Stopped], Look]
    batches: Callable[[File, str, Look, int, Sequence[str]], Batches]


def _arrays(read: Callable[[File, str], Arrays]) -> _Kind:
    def look(file: File, column: str, _stopped: Stopped) -> Look:
        found = read(file, column)
        return Look(found.schema, found.rows, {}, found.left_out)

    def batches(file: File, column: str, _found: Look, start: int, names: Sequence[str]) -> Batches:
        found = read(file, column)
        return found.batches(start, rows_per_batch(found.row_bytes(names)), names)

    return _Kind(look, batches)


_PARQUET: Final = _Kind(_look_at_parquet, _parquet)
_ARROW: Final = _Kind(_look_at_arrow, _arrow)
_JSON: Final = _Kind(json_lines.look, _json_lines)
_KINDS: Final[dict[str, _Kind]] = {
    **dict.fromkeys([".parquet", ".pq", ".parq"], _PARQUET),
    **dict.fromkeys([".arrow", ".arrows", ".feather", ".ipc"], _ARROW),
    **dict.fromkeys([".jsonl", ".ndjson"], _JSON),
    ".npy": _arrays(numpy_files.npy),
    ".npz": _arrays(numpy_files.npz),
    ".safetensors": _arrays(tensors.safetensors),
    **dict.fromkeys([".pt", ".pth"], _arrays(tensors.torch_file)),
}
