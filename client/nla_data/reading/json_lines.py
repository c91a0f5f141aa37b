"""JSON lines, packed or not, as record batches: read once for the columns' types, and again for their values."""

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import orjson
import pyarrow as pa

from nla_data.errors import UsageError
from nla_data.reading.files import COMPRESSIONS, File
from nla_data.reading.json_kinds import MixedError, Seen, may_be_rounded
from nla_data.reading.look import Look, Stopped

_BLOCK: Final = 2**20
_MARK: Final = b"\xef\xbb\xbf"
"""What some editors begin a file with."""


def look(file: File, column: str, stopped: Stopped) -> Look:
    """Read all of a file for its columns; `column` holds vectors.

    Raises:
        UsageError: a line is not JSON, or no object.
    """
    seen: dict[str, Seen] = {}
    count = 0
    for count, line in enumerate(_lines(file, stopped), 1):
        for name, value in _row(file, count, line, column).items():
            found = seen.setdefault(name, Seen())
            found.add_vector(value) if name == column else found.add(value)
    fields, troubles = [], {}
    for name, found in seen.items():
        try:
            fields.append(pa.field(name, found.kind()))
        except MixedError as error:
            troubles[name] = str(error)
    return Look(pa.schema(fields), count, troubles)


def batches(file: File, found: Look, start: int, names: Sequence[str], rows: Callable[[float], int]) -> Iterator[Any]:
    """The rows from one on, with these columns, as record batches; `rows` tells how many of a size are read at once."""
    schema = pa.schema([found.schema.field(name) for name in names])
    waiting: list[dict[str, Any]] = []
    size = 0
    for number, line in enumerate(_lines(file, lambda: False)):
        if number < start:
            continue
        waiting.append(_parse(file, number + 1, line))
        size += len(line)
        if len(waiting) >= rows(size / len(waiting)):
            yield _batch(waiting, schema)
            waiting, size = [], 0
    if waiting:
        yield _batch(waiting, schema)


def _batch(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.RecordBatch:
    columns = [pa.array([row.get(field.name) for row in rows], field.type) for field in schema]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _lines(file: File, stopped: Stopped) -> Iterator[bytes]:
    """Lines that are not empty."""
    rest = b""
    with file.open_stream(COMPRESSIONS.get(file.packing)) as stream:
        first = stream.read(len(_MARK))
        rest = b"" if first == _MARK else first
        while block := stream.read(_BLOCK):
            if stopped():
                return
            *whole, rest = (rest + block).split(b"\n") if b"\n" in block else (rest + block,)
            yield from (line for line in whole if line.strip())
    if rest.strip():
        yield rest


def _row(file: File, number: int, line: bytes, column: str) -> dict[str, Any]:
    """A line's values with all of its integers as they are."""
    row = _parse(file, number, line)
    if any(may_be_rounded(value) for name, value in row.items() if name != column):
        exact: dict[str, Any] = json.loads(line)
        return exact
    return row


def _parse(file: File, number: int, line: bytes) -> dict[str, Any]:
    try:
        row = orjson.loads(line)
    except ValueError:
        row = _parse_as_python(file, number, line)
    if not isinstance(row, dict):
        raise UsageError(f"{file.path}, line {number}: not an object with columns, but {type(row).__name__}")
    return row


def _parse_as_python(file: File, number: int, line: bytes) -> Any:
    """What Python's json writes and other readers refuse: NaN and Infinity."""
    try:
        row = json.loads(line)
        json.dumps(row, ensure_ascii=False).encode()  # texts that are none
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{file.path}, line {number}: not JSON: {str(error).splitlines()[0]}") from error
    return row
