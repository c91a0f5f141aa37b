"""The rows that a run works on: all files in order, those that `--where` keeps, up to `--limit`, in pieces.

A place in this stream is a `Position`; reading can go on from any. It knows nothing of what is done with the rows.
"""

import threading
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from nla_data.errors import UsageError
from nla_data.reading import readers
from nla_data.reading.files import File, reason


class Position(BaseModel):
    """Where reading goes on.

    Attributes:
        file: Which input file.
        row: Which of its rows.
        number: That row's number over all files.
        kept: How many rows were kept so far.
    """

    model_config = ConfigDict(frozen=True)

    file: int = 0
    row: int = 0
    number: int = 0
    kept: int = 0


@dataclass(frozen=True)
class Piece:
    """Some rows, one after the other in the input.

    Attributes:
        table: Their columns (pyarrow.RecordBatch).
        numbers: Their numbers over all files, int64 [N].
        end: Where reading goes on after them.
    """

    table: Any
    numbers: NDArray[np.int64]
    end: Position

    def only(self, columns: Sequence[str]) -> "Piece":
        """The same rows with these columns alone, so that the others need not stay in memory."""
        return Piece(self.table.select(list(columns)), self.numbers, self.end)


class Source:
    """Input files with the same columns.

    Args:
        files: In the order in which their rows come.
        column: The name for a nameless array.
        where: An SQL condition on other columns than lists (DuckDB's dialect), or None for all rows.
        limit: At most so many rows, or None.
        schema: The columns, where they are known; else those of the first file that has rows.

    Raises:
        UsageError: a file that cannot be read, files that do not go together, a condition that makes no sense.
    """

    def __init__(
        self,
        files: Sequence[File],
        column: str,
        where: str | None = None,
        limit: int | None = None,
        *,
        schema: pa.Schema | None = None,
    ) -> None:
        self.files, self.column, self.where, self._limit = files, column, where, limit
        self._stopped = threading.Event()
        looks = [_look(file, column) for file in files]
        known = schema or next((look.schema for look in looks if look.rows != 0), looks[0].schema)
        self.schema: pa.Schema = pa.schema([field.with_nullable(True) for field in known], known.metadata)
        for file, look in zip(files, looks, strict=True):
            if look.rows != 0:
                _check_same(self.schema, look.schema, files[0].path, file.path)
        self._condition = Condition(where, self.schema) if where else None
        counts = [look.rows for look in looks]
        self.rows: int | None = None if None in counts else sum(count or 0 for count in counts)
        """Rows of all files, before `where` and `limit`; None where only reading them would tell."""

    def stop(self) -> None:
        """End all reading, from another thread; what comes is not wanted any more."""
        self._stopped.set()

    def total(self) -> int | None:
        """How many rows will be kept; None where only reading them would tell."""
        if self._condition or self.rows is None:
            return None
        return self.rows if self._limit is None else min(self.rows, self._limit)

    def pieces(self, start: Position, size: int, stop: int | None = None) -> Iterator[Piece]:
        """The kept rows from `start` on, up to row number `stop`, `size` at a time; the last may be smaller."""
        waiting: list[_Rows] = []
        kept = start.kept
        for rows in self._kept_rows(start, stop):
            left = rows
            while len(left) and (self._limit is None or kept < self._limit):
                most = size - sum(len(part) for part in waiting)
                most = most if self._limit is None else min(most, self._limit - kept)
                waiting.append(left[:most])
                left = left[most:]
                kept += len(waiting[-1])
                if sum(len(part) for part in waiting) == size:
                    yield _piece(waiting, kept)
                    waiting = []
            if kept == self._limit:
                break
        if waiting:
            yield _piece(waiting, kept)

    def _kept_rows(self, start: Position, stop: int | None) -> "Iterator[_Rows]":
        before = start.number - start.row
        for index in range(start.file, len(self.files)):
            row = begin = start.row if index == start.file else 0
            for batch in readers.open_file(self.files[index], self.column).batches(begin):
                if self._stopped.is_set() or (stop is not None and before + row >= stop):
                    return
                cut = batch if stop is None else batch.slice(0, stop - before - row)
                rows = _Rows(_aligned(cut, self.schema), index, np.arange(row, row + cut.num_rows), before)
                row += batch.num_rows
                yield self._condition.keep(rows) if self._condition else rows
            before += row


class Condition:
    """An SQL condition on rows, each by itself.

    Raises:
        UsageError: it makes no sense for these columns.
    """

    def __init__(self, where: str, schema: pa.Schema) -> None:
        try:
            import duckdb
        except ImportError:
            raise UsageError("--where needs DuckDB: pip install 'nla-serve[data]'") from None
        self._error = duckdb.Error
        self._db = duckdb.connect(":memory:", config={"threads": 1})
        self._where = where
        # Names that a condition cannot know: it sees the rows of one batch, and must not count or compare them.
        self._rows, self._place = f"rows_{uuid.uuid4().hex}", f"place_{uuid.uuid4().hex}"
        self._columns = [field.name for field in schema if _is_plain(field.type)]
        folded = Counter(name.casefold() for name in self._columns)
        twice = [name for name in self._columns if folded[name.casefold()] > 1]
        if twice:
            raise UsageError(f"--where cannot tell the columns {', '.join(twice)} apart: SQL knows no case")
        empty = pa.RecordBatch.from_arrays([column.combine_chunks() for column in schema.empty_table()], schema=schema)
        self.keep(_Rows(empty, 0, np.arange(0), 0))

    def keep(self, rows: "_Rows") -> "_Rows":
        """Those rows for which the condition is true."""
        table = pa.Table.from_batches([rows.batch]).select(self._columns)
        places = pa.array(np.arange(len(rows)))
        try:
            self._db.register(self._rows, table.append_column(self._place, places))
            query = f"SELECT {self._place} FROM {self._rows} WHERE ({self._where}\n)"  # noqa: S608 - the user's own
            if len(self._db.extract_statements(query)) != 1:
                raise UsageError(f"--where {self._where!r}: must be one condition")
            kept = self._db.sql(query).fetchnumpy()[self._place]
        except self._error as error:
            columns = ", ".join(self._columns) or "none"
            raise UsageError(f"--where {self._where!r}: {reason(error)} (columns: {columns})") from error
        finally:
            self._db.unregister(self._rows)
        return rows[np.sort(np.asarray(kept, np.int64))]


def _is_plain(kind: pa.DataType) -> bool:
    """Whether SQL conditions may be about a column of this kind."""
    return not (pa.types.is_nested(kind) or isinstance(kind, pa.BaseExtensionType) or pa.types.is_float16(kind))


class _Rows:
    """Rows of one file with their places."""

    def __init__(self, batch: Any, file: int, rows: NDArray[np.int64], before: int) -> None:
        self.batch, self.file, self.rows, self.before = batch, file, rows, before

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, chosen: slice | NDArray[np.int64]) -> "_Rows":
        if isinstance(chosen, slice):
            begin, stop, _ = chosen.indices(len(self))
            batch = self.batch.slice(begin, stop - begin)
        else:
            batch = self.batch if len(chosen) == len(self) else self.batch.take(pa.array(chosen))
        return _Rows(batch, self.file, self.rows[chosen], self.before)


@dataclass(frozen=True)
class _Look:
    """What a file says of itself; it is closed again, for there may be more files than may be open."""

    schema: pa.Schema
    rows: int | None


def _look(file: File, column: str) -> _Look:
    opened = readers.open_file(file, column)
    return _Look(opened.schema, opened.rows)


def _piece(parts: list[_Rows], kept: int) -> Piece:
    last = parts[-1]
    batches = [part.batch for part in parts]
    table = batches[0] if len(parts) == 1 else pa.Table.from_batches(batches).combine_chunks().to_batches()[0]
    numbers = np.concatenate([part.rows + part.before for part in parts])
    row = int(last.rows[-1]) + 1
    return Piece(table, numbers, Position(file=last.file, row=row, number=row + last.before, kept=kept))


def _aligned(batch: Any, schema: pa.Schema) -> Any:
    """The first file's schema: others may differ in the order of columns, in metadata and in what may be null."""
    return batch if batch.schema.equals(schema, check_metadata=True) else batch.select(schema.names).cast(schema)


def _check_same(schema: pa.Schema, other: pa.Schema, first: str, path: str) -> None:
    for field in schema:
        index = other.get_field_index(field.name)
        if index < 0:
            raise UsageError(f"{path}: has no column {field.name!r}, which {first} has")
        if other.field(index).type != field.type:
            raise UsageError(f"{path}: column {field.name!r} is {other.field(index).type}, in {first} {field.type}")
    more = sorted(set(other.names) - set(schema.names))
    if more:
        raise UsageError(f"{path}: has a column {more[0]!r}, which {first} has not")
