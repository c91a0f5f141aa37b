"""The rows that a run works on: all files in order, those that `--where` keeps, up to `--limit`, in pieces.

A place in this stream is a `Position`; reading can go on from any. It knows nothing of what is done with the rows.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from nla_data.reading.columns import Columns
from nla_data.reading.condition import Condition
from nla_data.reading.files import File

Weigh = Callable[[Any], NDArray[np.float64]]
"""Of the rows of a pyarrow.RecordBatch, [N]: each one's share of a piece, which holds 1."""


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
        weight: What they weigh together; a piece holds 1, or one row that weighs more.
    """

    table: Any
    numbers: NDArray[np.int64]
    end: Position
    weight: float = 0.0

    def only(self, columns: Sequence[str]) -> "Piece":
        """The same rows with these columns alone, so that the others need not stay in memory."""
        return Piece(self.table.select(list(columns)), self.numbers, self.end, self.weight)


class Source:
    """Input files whose columns go together.

    Args:
        files: In the order in which their rows come.
        column: The column of vectors, and the name for a nameless array.
        where: An SQL condition (DuckDB's dialect), or None for all rows.
        limit: At most so many rows, or None.
        needed: Columns that every file must have; None for the column of vectors.
        columns: What was found out of the files before.
        stopped: Is set where what is read is not wanted any more.

    Raises:
        UsageError: a file that cannot be read, a condition that makes no sense.
        StoppedReadingError: `stopped` was set.
    """

    def __init__(
        self,
        files: Sequence[File],
        column: str,
        where: str | None = None,
        limit: int | None = None,
        *,
        needed: Sequence[str] | None = None,
        columns: Columns | None = None,
        stopped: threading.Event | None = None,
    ) -> None:
        self.files, self.where, self._limit = files, where, limit
        self.stopped = stopped or threading.Event()
        """Ends all reading, where it is set from another thread."""
        needed = [column] if needed is None else needed
        self.columns = columns or Columns.of(files, column, needed, self.stopped.is_set)
        self._condition = Condition(where, self.columns.schema, self.columns.troubles) if where else None
        self.used: Sequence[str] = self.schema.names
        """Columns that are read."""

    @property
    def schema(self) -> pa.Schema:
        """The columns that can be read, as they come out."""
        return self.columns.schema

    @property
    def warnings(self) -> list[str]:
        """What the files have and no row gets, and which columns that are read some of them have not."""
        left_out = [(file, look.left_out) for file, look in zip(self.files, self.columns.looks, strict=True)]
        told = [
            f"{file.path}: left out: " + ", ".join(f"{name!r}, which {why}" for name, why in found.items())
            for file, found in left_out
            if found
        ]
        return told + [_without(name, files) for name, files in self.columns.lacking(self.used).items()]

    def use(self, names: Sequence[str]) -> None:
        """As `take`, and see that all of these columns' values come out.

        Raises:
            UsageError: one would not, naming the file, the column and the reason.
            StoppedReadingError: it was stopped.
        """
        self.take(names)
        self.columns.check(self.used, self.stopped.is_set)

    def take(self, names: Sequence[str]) -> None:
        """Read no other columns than these, and those that the condition names."""
        named = self._condition.columns if self._condition else []
        self.used = list(dict.fromkeys([*names, *named]))

    def total(self) -> int | None:
        """How many rows will be kept; None where only reading them would tell."""
        rows = self.columns.rows
        if self._condition or rows is None:
            return None
        return rows if self._limit is None else min(rows, self._limit)

    def pieces(
        self, start: Position, size: int, stop: int | None = None, weigh: Weigh | None = None
    ) -> Iterator[Piece]:
        """The kept rows from `start` on, up to row number `stop`, `size` at a time or fewer that weigh 1 at most."""
        filling, kept = _Filling(size), start.kept
        for rows in self._kept_rows(start, stop):
            weights = weigh(rows.batch) if weigh else np.zeros(len(rows))
            left = len(rows) if self._limit is None else min(len(rows), self._limit - kept)
            at = 0
            while at < left:
                count = filling.fit(weights[at:left])
                filling.add(rows[at : at + count], float(weights[at : at + count].sum()))
                at, kept = at + count, kept + count
                if at < left or filling.rows == size:
                    yield filling.piece(kept)
                    filling = _Filling(size)
            if kept == self._limit:
                break
        if filling.rows:
            yield filling.piece(kept)

    def _kept_rows(self, start: Position, stop: int | None) -> "Iterator[_Rows]":
        before = start.number - start.row
        for index in range(start.file, len(self.files)):
            row = begin = start.row if index == start.file else 0
            for batch in self.columns.batches(index, begin, self.used):
                if self.stopped.is_set() or (stop is not None and before + row >= stop):
                    return
                cut = batch if stop is None else batch.slice(0, stop - before - row)
                rows = _Rows(cut, index, np.arange(row, row + cut.num_rows), before)
                row += batch.num_rows
                yield rows[self._condition.keep(rows.batch)] if self._condition else rows
            before += row


def _without(name: str, files: Sequence[File]) -> str:
    more = f", and {len(files) - 1} more files have none" if len(files) > 1 else ""
    return f"{files[0].path}: has no column {name!r}{more}: it is null in these rows"


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


class _Filling:
    """Rows that become a piece."""

    def __init__(self, size: int) -> None:
        self._size, self._parts = size, list[_Rows]()
        self.rows, self._weight = 0, 0.0

    def fit(self, weights: NDArray[np.float64]) -> int:
        """How many of the next rows go in; of an empty one at least one does."""
        light = int(np.searchsorted(self._weight + np.cumsum(weights), 1.0, "right"))
        return min(self._size - self.rows, len(weights), light if self.rows else max(light, 1))

    def add(self, rows: _Rows, weight: float) -> None:
        """Put rows in."""
        if len(rows):
            self._parts.append(rows)
        self.rows, self._weight = self.rows + len(rows), self._weight + weight

    def piece(self, kept: int) -> Piece:
        """The piece, after which so many rows are kept."""
        last, batches = self._parts[-1], [part.batch for part in self._parts]
        table = batches[0] if len(batches) == 1 else pa.Table.from_batches(batches).combine_chunks().to_batches()[0]
        numbers = np.concatenate([part.rows + part.before for part in self._parts])
        row = int(last.rows[-1]) + 1
        end = Position(file=last.file, row=row, number=row + last.before, kept=kept)
        return Piece(table, numbers, end, self._weight)
