"""A run in chunks that are done anywhere, in any order: how they are cut, and how one is done.

A row's seed is the run's plus the row's own number, whatever came before it. Where each position of a text has its own,
chunks are counted before any is done. It knows nothing of who does the chunks.
"""

import itertools
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import pyarrow as pa

from nla_client import Info
from nla_data.asking.tasks import Task
from nla_data.asking.totals import Totals
from nla_data.asking.work import Call, Done, Work, together
from nla_data.errors import StoppedError, UsageError
from nla_data.reading.columns import Columns
from nla_data.reading.source import Piece, Position, Source
from nla_data.reading.types import no_rows
from nla_data.running.gateways import Gateways
from nla_data.writing import parts
from nla_data.writing.manifest import PartState, Served
from nla_data.writing.output import Output
from nla_data.writing.store import Store


@dataclass(frozen=True)
class Chunk:
    """Some rows of one file, one after the other.

    Attributes:
        index: Number of the part that they become.
        file: Which input file.
        row: The first of its rows.
        rows: How many.
        number: The first row's number over all files.
        seeds: How many positions come before it, where each takes a seed.
        positions: How many it has itself.
    """

    index: int
    file: int
    row: int
    rows: int
    number: int
    seeds: int = 0
    positions: int = 0


def plan(columns: Columns, size: int, limit: int | None) -> list[Chunk]:
    """Cut the first `limit` rows of all files into chunks of at most `size`: the same ones, whenever it is asked."""
    chunks: list[Chunk] = []
    before = 0
    for index in range(len(columns.files)):
        count = _count(columns, index)
        count = count if limit is None else min(count, limit - before)
        for row in range(0, count, size):
            chunks.append(Chunk(len(chunks), index, row, min(size, count - row), before + row))
        before += count
    return chunks


def _count(columns: Columns, index: int) -> int:
    known = columns.looks[index].rows
    return sum(batch.num_rows for batch in columns.batches(index, 0, [])) if known is None else known


@dataclass(frozen=True)
class Order:
    """What all chunks of a run have in common; it can be pickled.

    Attributes:
        task: With the rows.
        columns: Of the input files, which need not be looked at again.
        where: An SQL condition on the rows.
        used: Columns that are read.
        carried: Those of them that go along.
        schema: Columns of the output.
        store: Where the parts go.
        run: Whose parts they are.
        served: The models with which the run began.
        workers: How many chunks are done at once.
    """

    task: Task
    columns: Columns
    where: str | None
    used: Sequence[str]
    carried: Sequence[str]
    schema: pa.Schema
    store: Store
    run: str
    served: Served
    workers: int = 1

    @classmethod
    def of(cls, output: Output, source: Source, task: Task, *, carried: Sequence[str], schema: pa.Schema) -> Self:
        """What a run that was begun has its workers do."""
        given = (source.columns, source.where, source.used)
        return cls(task, *given, carried, schema, output.store, output.manifest.run, output.manifest.served)


async def do(chunk: Chunk, order: Order, gateways: Gateways, info: Info) -> Totals:
    """Do a chunk and write its part.

    Raises:
        DataError: it cannot be done, or not now.
    """
    began = time.monotonic()
    pieces = _pieces(chunk, order, info)
    counted = order.task.seeds_by_position
    answered = await answer(order.task, gateways, pieces, info.d_model, chunk.seeds if counted else None)
    if counted and sum(work.seeds for work, _ in answered) != chunk.positions:
        raise StoppedError("a text was taken apart in another way than before; run the same command again to go on")
    totals = Totals(seconds=(time.monotonic() - began) / order.workers)  # its share of the run's time
    for _, done in answered:
        totals = totals.plus(done.totals)
    write(order, chunk.index, as_table(answered, order.carried, order.schema), totals)
    return totals


async def count(chunk: Chunk, order: Order, gateways: Gateways, info: Info) -> Totals:
    """Tell how many seeds a chunk's texts take, one a position; nothing else is counted.

    Raises:
        DataError: it cannot be told, or not now.
    """
    planned = await _planned(order.task, gateways.bounded(), _pieces(chunk, order, info), info.d_model)
    return Totals(sent=sum(work.seeds for work in planned))


def _pieces(chunk: Chunk, order: Order, info: Info) -> Iterator[Piece]:
    difference = order.served.difference(Served.of(info, source=order.task.reads_source))
    if difference:
        raise UsageError(f"the server serves other models than the run began with: results would mix ({difference})")
    columns = order.columns.only(chunk.file)
    source = Source(columns.files, columns.vectors, order.where, columns=columns)
    source.take(order.used)
    start = Position(row=chunk.row, number=chunk.number)
    return source.pieces(start, order.task.rows_per_piece(info), chunk.number + chunk.rows)


def write(order: Order, index: int, table: Any, totals: Totals) -> None:
    """Write a part, with whose it is.

    Raises:
        StoppedError: it cannot be written now.
    """
    parts.write_part(order.store, index, table, PartState(run=order.run, totals=totals))


async def answer(
    task: Task, gateways: Gateways, pieces: Iterable[Piece], d_model: int, seeds: int | None = None
) -> list[tuple[Work, Done]]:
    """Do all pieces, as many at once as keep the gateways busy; the results come in the order of the pieces.

    Args:
        task: What is done with them.
        gateways: Who does it, connected.
        pieces: The rows.
        d_model: Elements of a vector.
        seeds: How many positions come before them; None where a row's seed goes by its number.
    """
    call = gateways.bounded()
    planned = await _planned(task, call, pieces, d_model)
    if seeds is not None:
        before = itertools.accumulate((work.seeds for work in planned), initial=seeds)
        planned = [replace(work, offset=offset) for work, offset in zip(planned, before, strict=False)]
    return list(zip(planned, await together(task.answer(call, work) for work in planned), strict=True))


async def _planned(task: Task, call: Call, pieces: Iterable[Piece], d_model: int) -> list[Work]:
    return await together(task.plan(call, work) for piece in pieces for work in _works(task, piece, d_model))


def as_table(answered: Sequence[tuple[Work, Done]], carried: Sequence[str], schema: pa.Schema) -> Any:
    """The input's columns that go along, and the new ones, as a pyarrow.Table."""
    tables = [parts.as_table(work, done, carried, schema) for work, done in answered]
    return pa.concat_tables(tables) if tables else no_rows(schema)


def _works(task: Task, piece: Piece, d_model: int) -> Iterator[Work]:
    """Cut a piece so that the good rows of each have numbers without gaps, and so their own seeds."""
    whole = replace(task.prepare(piece, d_model), offset=int(piece.numbers[0]))
    if task.reads_source:  # whose seeds, if it takes any, are counted
        yield whole
        return
    cuts = [0, *_cuts(whole.reasons, piece.numbers.tolist()), len(whole.reasons)]
    if len(cuts) == 2:
        yield whole
        return
    for begin, end in itertools.pairwise(cuts):
        part = Piece(piece.table.slice(begin, end - begin), piece.numbers[begin:end], piece.end)
        yield replace(task.prepare(part, d_model), offset=int(part.numbers[0]))


def _cuts(reasons: Sequence[str | None], numbers: Sequence[int]) -> Iterator[int]:
    """Where a good row comes after a bad one, or after another than its predecessor."""
    for k in range(1, len(numbers)):
        if reasons[k] is None and (reasons[k - 1] is not None or numbers[k] != numbers[k - 1] + 1):
            yield k
