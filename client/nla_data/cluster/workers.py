"""Rows explained by workers of a Ray cluster: `nla_data.ray.VerbalizeBatches` in pipelines, or `nla ... --ray`.

    rows = ray.data.read_parquet("s3://bucket/activations/")  # has a column input_row: each row's own number
    task = Verbalize(seed=1, n=4, best=True)
    told = rows.map_batches(
        VerbalizeBatches,
        fn_constructor_args=(task, ["http://host:8000"]),
        batch_format="pyarrow",
        batch_size=512,
        compute=ray.data.ActorPoolStrategy(size=2),
    )

A row's seed is the task's plus its `input_row`, however Ray makes batches. Rows with numbers one after the other go in
one request; numbers in no order mean a request for each row.

`--ray` sends only numbers through Ray: each worker reads its rows and writes its part itself. All machines see the same
paths or URIs, have nla-serve[ray] installed, and the same environment (keys of the storage).
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Final, TypeVar

import numpy as np
import pyarrow as pa

from nla_client import Info, NLAError
from nla_data.asking.tasks import Verbalize
from nla_data.asking.totals import Totals
from nla_data.cluster import chunks
from nla_data.cluster.chunks import Chunk, Order
from nla_data.errors import DataError, StoppedError, UsageError
from nla_data.given import as_list
from nla_data.reading import vectors
from nla_data.reading.source import Piece, Position
from nla_data.running.gateways import PATIENCE_S, Gateways

T = TypeVar("T")
INPUT_ROW: Final = "input_row"
ChunkWork = Callable[[Chunk, Order, Gateways, Info], Awaitable[Totals]]


@dataclass(frozen=True)
class Servers:
    """The gateways of a run, before they are connected; see `Gateways`."""

    urls: Sequence[str]
    api_key: str | None = None
    patience: float = PATIENCE_S
    source: bool = False
    model: str | None = None


class Session:
    """The gateways for code that is not async: one event loop for all calls, connected at the first."""

    def __init__(self, servers: Servers) -> None:
        self._servers = servers
        self._runner = asyncio.Runner()
        self._gateways: Gateways | None = None
        self._info: Info

    def __call__(self, work: Callable[[Gateways, Info], Awaitable[T]]) -> T:
        """Do a work to its end."""
        return self._runner.run(self._do(work))

    async def _do(self, work: Callable[[Gateways, Info], Awaitable[T]]) -> T:
        if self._gateways is None:
            gateways = Gateways(**asdict(self._servers))
            try:
                self._info = await gateways.connect()
            except BaseException:
                await gateways.__aexit__(None, None, None)
                raise
            self._gateways = gateways
        return await work(self._gateways, self._info)


class VerbalizeBatches:
    """For `map_batches(..., batch_format="pyarrow")`: adds the columns of `nla verbalize`, and takes away the vectors.

    Args:
        task: With a seed.
        urls: One gateway, or several that serve the same models.
        api_key: As for the clients.
        patience: Seconds without any answer, beyond those that a limit tells to wait, after which it gives up.
        model: Name of their pair, where they have several.

    Raises:
        UsageError: the task has no seed.
    """

    def __init__(
        self,
        task: Verbalize,
        urls: Sequence[str],
        api_key: str | None = None,
        patience: float = PATIENCE_S,
        model: str | None = None,
    ) -> None:
        if task.seed is None:
            raise UsageError("the task needs a seed: each worker would draw another")
        self._task = task
        self._session = Session(Servers(as_list(urls), api_key, patience, model=model))

    def __call__(self, batch: Any) -> Any:
        """A pyarrow.Table with the results of another, in its order.

        Raises:
            UsageError: a column is missing or there already, or the server is not what it should be.
            StoppedError: no gateway answers.
        """
        return self._session(partial(self._answer, batch))

    async def _answer(self, batch: Any, gateways: Gateways, info: Info) -> Any:
        task = self._task.bound_to(info)
        task.check(info)
        added = task.output(info.d_model)
        carried = _carried(batch.schema, task.vector_column, added)
        schema = pa.schema([*(batch.schema.field(name) for name in carried), *added])
        pieces = _pieces(batch, task.rows_per_piece(info))
        return chunks.as_table(await chunks.answer(task, gateways, pieces, info.d_model), carried, schema)


def _carried(given: pa.Schema, vector_column: str, added: pa.Schema) -> list[str]:
    for name in (vector_column, INPUT_ROW):
        if name not in given.names:
            raise UsageError(f"the batch has no column {name!r}; it has {', '.join(given.names)}")
    vectors.check_type(given.field(vector_column).type, vector_column)
    carried = [name for name in given.names if name not in (vector_column, INPUT_ROW)]
    both = [name for name in carried if name in added.names]
    if both:
        raise UsageError(f"the batch has columns {', '.join(both)} already; drop or rename them")
    return carried


def _pieces(batch: Any, size: int) -> list[Piece]:
    whole = batch.combine_chunks().to_batches()
    pieces = [part.slice(begin, size) for part in whole for begin in range(0, part.num_rows, size)]
    numbers = [np.asarray(piece.column(INPUT_ROW), np.int64) for piece in pieces]
    return [Piece(piece, rows, Position()) for piece, rows in zip(pieces, numbers, strict=True)]


class ChunkWorker:
    """For `map`: does a work with the chunk that a row describes, and tells its totals or why it could not.

    Args:
        work: `chunks.do` or `chunks.count`.
        order: What all chunks have in common.
        servers: Whom it calls.
    """

    def __init__(self, work: ChunkWork, order: Order, servers: Servers) -> None:
        self._work, self._order, self._session = work, order, Session(servers)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """What went wrong is told, not raised: Ray would wrap it, and do the chunk again."""
        chunk = Chunk(**{name: int(value) for name, value in row.items()})
        told = {"index": chunk.index, "totals": "", "error": "", "stopped": False}
        try:
            totals = self._session(partial(self._work, chunk, self._order))
        except (DataError, NLAError) as error:
            return told | {"error": str(error), "stopped": isinstance(error, StoppedError)}
        return told | {"totals": totals.model_dump_json()}
