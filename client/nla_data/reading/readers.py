"""Opens an input file of any kind as a stream of record batches from a given row on, never the whole file at once.

Files of arrays (numpy, safetensors, torch) are read in `arrays`; the rest is pyarrow's.
"""

import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa
import pyarrow.ipc
import pyarrow.json
import pyarrow.parquet as pq
from pyarrow import fs

from nla_data.errors import UsageError
from nla_data.reading import arrays
from nla_data.reading.files import File, reason

BATCH_BYTES: Final = 2 * 2**20
"""About what a batch of rows holds."""
MAX_BATCH_ROWS: Final = 1024
_STREAM_BUFFER: Final = 2**20
_BROKEN: Final = (
    pa.ArrowException, OSError, ValueError, EOFError, KeyError, AttributeError, TypeError, NotImplementedError,
    tokenize.TokenError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
"""What libraries raise for files that are damaged or are not what their names say."""
_JSON_BLOCK: Final = 16 * 2**20
"""A line of JSON must fit in; d_model 8192 takes some 180 KB."""


@dataclass(frozen=True)
class Opened:
    """A file, open.

    Attributes:
        schema: Its columns.
        rows: How many rows it has; None where only reading it would tell.
        batches: Its rows from one on, as record batches.
    """

    schema: pa.Schema
    rows: int | None
    batches: Callable[[int], Iterator[pa.RecordBatch]]


def open_file(file: File, column: str) -> Opened:
    """Open a file; `column` names the vectors of a file that holds one nameless array.

    Raises:
        UsageError: not what its name says, or broken.
    """
    try:
        return _guarded(file, _OPENERS[file.suffix](file, column))
    except _BROKEN as error:
        raise UsageError(f"{file.path}: not a whole {file.suffix} file: {reason(error)}") from error


def _guarded(file: File, opened: Opened) -> Opened:
    def batches(start: int) -> Iterator[pa.RecordBatch]:
        try:
            yield from opened.batches(start)
        except _BROKEN as error:
            raise UsageError(f"{file.path}: breaks off or is damaged: {reason(error)}") from error

    return Opened(opened.schema, opened.rows, batches)


def rows_per_batch(row_bytes: float) -> int:
    """How many rows of a size to read at once."""
    return max(1, min(MAX_BATCH_ROWS, int(BATCH_BYTES // max(row_bytes, 1))))


def _parquet(file: File, _column: str) -> Opened:
    # Column chunks are read through a buffer, or a file that is one row group would be in memory whole.
    parquet = pq.ParquetFile(file.open(), buffer_size=_STREAM_BUFFER, pre_buffer=False)
    meta = parquet.metadata
    stored = sum(meta.row_group(group).total_byte_size for group in range(meta.num_row_groups))
    count = rows_per_batch(stored / max(meta.num_rows, 1))

    def batches(start: int) -> Iterator[pa.RecordBatch]:
        for group in range(meta.num_row_groups):
            rows = meta.row_group(group).num_rows
            if start < rows:
                yield from _from_row(parquet.iter_batches(count, row_groups=[group], use_threads=False), start)
            start = max(0, start - rows)

    return Opened(parquet.schema_arrow, meta.num_rows, batches)


def _arrow(file: File, _column: str) -> Opened:
    with suppress(pa.ArrowInvalid):
        return _arrow_file(pa.ipc.open_file(_mapped(file)))

    def batches(start: int) -> Iterator[pa.RecordBatch]:
        yield from _from_row(iter(pa.ipc.open_stream(_mapped(file))), start)

    return Opened(pa.ipc.open_stream(_mapped(file)).schema, None, batches)


def _mapped(file: File) -> Any:
    """A local file as memory that the system may drop: a batch of Arrow is read whole, and may be a whole file."""
    is_local = isinstance(file.filesystem, fs.LocalFileSystem) and file.size
    return pa.memory_map(file.path) if is_local else file.open()


def _arrow_file(reader: Any) -> Opened:
    def batches(start: int) -> Iterator[pa.RecordBatch]:
        yield from _from_row((reader.get_batch(k) for k in range(reader.num_record_batches)), start)

    return Opened(reader.schema, None, batches)


def _json_lines(file: File, _column: str) -> Opened:
    def start_reading() -> Any:
        options = pa.json.ReadOptions(use_threads=False, block_size=_JSON_BLOCK)
        return pa.json.open_json(file.open(), read_options=options)

    def batches(start: int) -> Iterator[pa.RecordBatch]:
        yield from _from_row(iter(start_reading()), start)

    if not file.size:
        return Opened(pa.schema([]), 0, lambda _start: iter(()))
    return Opened(start_reading().schema, None, batches)


def _arrays(read: Callable[[File, str], arrays.Arrays]) -> Callable[[File, str], Opened]:
    def opener(file: File, column: str) -> Opened:
        found = read(file, column)
        count = rows_per_batch(found.row_bytes)
        return Opened(found.schema, found.rows, lambda start: found.batches(start, count))

    return opener


def _from_row(batches: Iterator[pa.RecordBatch], start: int) -> Iterator[pa.RecordBatch]:
    """Leave out the first `start` rows, and cut what is too long."""
    for batch in batches:
        for begin in range(min(start, batch.num_rows), batch.num_rows, MAX_BATCH_ROWS):
            yield batch.slice(begin, MAX_BATCH_ROWS)
        start = max(0, start - batch.num_rows)


_OPENERS: Final[dict[str, Callable[[File, str], Opened]]] = {
    ".parquet": _parquet,
    ".arrow": _arrow,
    ".feather": _arrow,
    ".ipc": _arrow,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".npy": _arrays(arrays.npy),
    ".npz": _arrays(arrays.npz),
    ".safetensors": _arrays(arrays.safetensors),
    ".pt": _arrays(arrays.torch_file),
    ".pth": _arrays(arrays.torch_file),
}
