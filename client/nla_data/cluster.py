"""A run on a Ray cluster: which chunks are left, workers that do them, and a word of each that is done."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any, Final

from nla_data import chunks
from nla_data.chunks import Chunk, Order
from nla_data.errors import StoppedError, UsageError
from nla_data.files import reason
from nla_data.manifest import Totals
from nla_data.output import Output
from nla_data.progress import Reporter
from nla_data.ray import ChunkWorker, Servers

CHUNK_ROWS: Final = 2048
"""Rows of a part: as many as are done again where a worker dies."""
WORKERS_PER_GATEWAY: Final = 2
"""So that one sends while the other reads, writes or waits for its last rows."""


async def run(cluster: "Cluster", order: Order, output: Output, limit: int | None, shown: Reporter) -> Totals:
    """Do the chunks whose parts are not there yet.

    Raises:
        UsageError: one cannot be done, or what is there does not belong to this run.
        StoppedError: it cannot go on now.
    """
    planned = chunks.plan(order.files, order.column, CHUNK_ROWS, limit)
    done = output.done()
    if not planned and not done:  # for its columns
        chunks.write(order, 0, order.schema.empty_table(), Totals())
    totals = before = sum(done.values(), start=Totals())
    began = time.monotonic()

    def tell(more: Totals) -> None:
        nonlocal totals
        totals = totals.plus(more)
        shown.update(totals, (totals.rows - before.rows) / max(time.monotonic() - began, 1e-9))

    shown.start(None if order.where else sum(chunk.rows for chunk in planned), before)
    try:
        todo = [chunk for chunk in planned if chunk.index not in done]
        if todo:
            await cluster.run(order, todo, tell)
    finally:
        shown.close()
    return totals


class Cluster:
    """A Ray cluster: the one that this process is connected to, or for the length of a run that of `address`.

    Args:
        address: As for `ray.init`; None for the one that Ray finds, or one of this machine's own.
        servers: Whom the workers call.

    Raises:
        UsageError: Ray is not installed.
    """

    def __init__(self, address: str | None, servers: Servers) -> None:
        try:
            import ray.data
        except ImportError:
            raise UsageError("--ray needs Ray: pip install 'nla-serve[ray]'") from None
        self._ray, self._address, self._servers = ray, address, servers
        self._stopped = threading.Event()

    async def run(self, order: Order, todo: Sequence[Chunk], tell: Callable[[Totals], None]) -> None:
        """Do all chunks, in any order, and tell the totals of each.

        Raises:
            UsageError: a chunk cannot be done, or there is no such cluster.
            StoppedError: it cannot go on now.
        """
        # In a thread of its own, which ends with the process: waiting for Ray cannot be interrupted.
        loop, done = asyncio.get_running_loop(), asyncio.Queue[Totals | Exception | None]()

        def put(what: Totals | Exception | None) -> None:
            if not self._stopped.is_set():
                loop.call_soon_threadsafe(done.put_nowait, what)

        threading.Thread(target=self._work, args=(order, todo, put), daemon=True).start()
        try:
            while (what := await done.get()) is not None:
                if isinstance(what, Exception):
                    raise what
                tell(what)
        finally:
            self._stopped.set()

    def _work(self, order: Order, todo: Sequence[Chunk], put: Callable[[Totals | Exception | None], None]) -> None:
        failure: Exception | None = None
        try:
            with self._connected():
                for row in self._rows(order, todo):
                    if self._stopped.is_set():
                        break
                    put(_read(row))
        except (UsageError, StoppedError) as error:
            failure = error
        except Exception as error:
            failure = StoppedError(f"Ray stopped: {reason(error)}; run the same command again to go on")
            failure.__cause__ = error
        put(failure)

    @contextmanager
    def _connected(self) -> Iterator[None]:
        if self._ray.is_initialized():
            yield
            return
        try:
            self._ray.init(self._address, logging_level=logging.ERROR, log_to_driver=False)
        except (OSError, ValueError, RuntimeError) as error:
            raise UsageError(f"Ray at {self._address or 'this machine'}: {reason(error)}") from error
        try:
            yield
        finally:
            self._ray.shutdown()

    def _rows(self, order: Order, todo: Sequence[Chunk]) -> Iterator[dict[str, Any]]:
        cpus = int(self._ray.cluster_resources().get("CPU", 1))
        size = max(1, min(len(todo), cpus, WORKERS_PER_GATEWAY * len(self._servers.urls)))
        data = self._ray.data.from_items([asdict(chunk) for chunk in todo], override_num_blocks=len(todo))
        data.context.enable_progress_bars = data.context.print_on_execution_start = False
        rows: Iterator[dict[str, Any]] = data.map(
            ChunkWorker,
            fn_constructor_args=(replace(order, workers=size), self._servers),
            compute=self._ray.data.ActorPoolStrategy(size=size),
        ).iter_rows()
        return rows


def _read(row: dict[str, Any]) -> Totals:
    if row["error"]:
        raise (StoppedError if row["stopped"] else UsageError)(row["error"])
    return Totals.model_validate_json(row["totals"])
