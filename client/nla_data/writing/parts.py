"""Gathers rows that are done, in order, into parts, and writes each whole, with where it ends."""

import time
from collections.abc import Sequence
from typing import Any, Final

import pyarrow as pa

from nla_data.asking.work import Done, Work
from nla_data.reading.types import no_rows
from nla_data.writing.manifest import PartState
from nla_data.writing.store import Store

STATE_KEY: Final = b"nla"
"""Where in a part's metadata its PartState is."""
PART_ROWS: Final = 10_000
PART_BYTES: Final = 64 * 2**20
PART_S: Final = (2.0, 60.0)
PART_SHARE: Final = 0.1
"""A part is written once it has so many rows or bytes, or is as old as this share of the run, within these bounds: no
more than a tenth is done twice, and a long run has few parts."""


def read_state(store: Store, path: str, run: str) -> PartState | None:
    """What a part says of where it ends; None where it is of another run.

    Raises:
        UsageError: it is not whole.
    """
    content = store.metadata(path).get(STATE_KEY)
    state = PartState.model_validate_json(content) if content else None
    return state if state and state.run == run else None


def write_part(store: Store, index: int, table: Any, state: PartState) -> None:
    """Write a part, with where it ends and whose it is.

    Raises:
        StoppedError: it cannot be written now.
    """
    metadata = {**(table.schema.metadata or {}), STATE_KEY: state.model_dump_json().encode()}
    store.write_part(index, table.replace_schema_metadata(metadata))


def as_table(work: Work, done: Done, carried: Sequence[str], schema: pa.Schema) -> Any:
    """The input's columns that go along, and the new ones, as a pyarrow.Table."""
    given = work.piece.only(carried).table
    given = given if done.origin is None else given.take(pa.array(done.origin))
    own = dict(zip(given.schema.names, given.columns, strict=True))
    return pa.Table.from_arrays(
        [own[name] if name in own else done.columns[name] for name in schema.names], schema=schema
    )


class PartWriter:
    """Writes the parts of a run, in order.

    Args:
        store: Where to; None for a run whose totals alone count.
        schema: Columns of the output.
        carried: Those of them that come from the input.
        state: Where the run goes on.
        index: Number of the next part.
    """

    def __init__(
        self, store: Store | None, schema: pa.Schema, carried: Sequence[str], state: PartState, index: int
    ) -> None:
        self.state = state
        """Where the rows that were taken end; those since the last part are not yet written."""
        self.carried = carried
        self._store, self._schema, self._index = store, schema, index
        self._tables: list[Any] = []
        self._began = self._since = time.monotonic()
        self._before = state.totals
        self._broken = False

    @property
    def rate(self) -> float:
        """Rows a second in this run."""
        return (self.state.totals.rows - self._before.rows) / max(time.monotonic() - self._began, 1e-9)

    @property
    def due_in(self) -> float | None:
        """Seconds until what is there should be written; None where nothing is there."""
        if not self._tables:
            return None
        size, rows = sum(table.nbytes for table in self._tables), sum(table.num_rows for table in self._tables)
        full = rows >= PART_ROWS or size >= PART_BYTES
        oldest = min(max(PART_SHARE * (self._since - self._began), PART_S[0]), PART_S[1])
        return 0.0 if full else max(0.0, self._since + oldest - time.monotonic())

    def take(self, work: Work, done: Done) -> None:
        """Add the next rows."""
        if not self._tables:
            self._since = time.monotonic()
        self._tables.append(as_table(work, done, self.carried, self._schema))
        seconds = self._before.seconds + time.monotonic() - self._began
        totals = self.state.totals.plus(done.totals).model_copy(update={"seconds": seconds})
        self.state = PartState(run=self.state.run, end=work.piece.end, totals=totals)

    def flush(self) -> None:
        """Write what is there as one part.

        Raises:
            StoppedError: it cannot be written now; later calls do nothing.
        """
        if self._store and self._tables and not self._broken:
            self._write(pa.concat_tables(self._tables))
        self._tables = []

    def finish(self) -> None:
        """Write the last part; an output of no rows gets an empty one, for its columns."""
        self.flush()
        if self._store and not self._index:
            self._write(no_rows(self._schema))

    def _write(self, table: Any) -> None:
        if self._store is None:
            return
        self._broken = True  # until it is written
        write_part(self._store, self._index, table, self.state)
        self._broken = False
        self._index += 1
