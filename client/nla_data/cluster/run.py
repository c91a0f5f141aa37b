"""A run on a Ray cluster: which chunks are left, workers that do them, and a word of each that is done."""

import logging
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import accumulate
from typing import Any, Final

from nla_data.asking.totals import Totals
from nla_data.cluster import chunks
from nla_data.cluster.chunks import Chunk, Order
from nla_data.cluster.workers import ChunkWork, ChunkWorker, Servers
from nla_data.errors import DataError, StoppedError, UsageError
from nla_data.reading.files import reason
from nla_data.reading.types import no_rows
from nla_data.running.progress import Reporter
from nla_data.writing.output import Output

CHUNK_ROWS: Final = 2048
"""Rows of a part: as many as are done again where a worker dies."""
CONNECT_S: Final = 10.0
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
WORKERS_PER_GATEWAY: Final = 2
"""So that one sends while the other reads, writes or waits for its last rows."""


@dataclass(frozen=True)
class Left:
    """What is left of a run.

    Attributes:
        planned: All of its chunks.
        done: Totals of those whose parts are there, by index.
    """

    planned: Sequence[Chunk]
    done: Mapping[int, Totals]


def left(order: Order, output: Output, limit: int | None) -> Left:
    """Look at what is there; how many rows the run has was settled when the output was begun.

    Raises:
        UsageError: it does not belong to this run.
        StoppedError: it cannot go on now.
    """
    planned = chunks.plan(order.columns, output.manifest.settings["ray"], limit)
    done = output.done()
    if not planned and not done:  # for its columns
        chunks.write(order, 0, no_rows(order.schema), Totals())
    return Left(planned, done)


def run(cluster: "Cluster", order: Order, left: Left, shown: Reporter) -> Totals:
    """Do the chunks whose parts are not there yet.

    Raises:
        UsageError: one cannot be done.
        StoppedError: it cannot go on now.
    """
    totals = before = sum(left.done.values(), start=Totals())
    began = time.monotonic()

    def tell(more: Totals) -> None:
        nonlocal totals
        totals = totals.plus(more)
        shown.update(totals, (totals.rows - before.rows) / max(time.monotonic() - began, 1e-9))

    shown.start(None if order.where else sum(chunk.rows for chunk in left.planned), before)
    try:
        if any(chunk.index not in left.done for chunk in left.planned):
            cluster.run(order, left.planned, left.done, tell)
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

    def run(
        self, order: Order, planned: Sequence[Chunk], done: Mapping[int, Totals], tell: Callable[[Totals], None]
    ) -> None:
        """Do the chunks that are left, in any order, and tell the totals of each.

        It blocks; SIGINT and SIGTERM interrupt it.

        Args:
            order: What they have in common.
            planned: All of them.
            done: Totals of those whose parts are there, by index.
            tell: Called for each.

        Raises:
            UsageError: a chunk cannot be done, or there is no such cluster.
            StoppedError: it cannot go on now.
        """
        with _signals_restored(), self._connected():
            _interrupt_on_signals()
            try:
                placed = self._counted(order, planned, done) if order.task.seeds_by_position else planned
                for row in self._rows(chunks.do, order, [chunk for chunk in placed if chunk.index not in done]):
                    tell(_read(row))
            except DataError:
                raise
            except Exception as error:
                again = "run the same command again to go on"
                raise StoppedError(f"Ray stopped: {reason(error)}; {again}") from error

    @contextmanager
    def _connected(self) -> Iterator[None]:
        if self._ray.is_initialized():
            yield
            return
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        try:
            _check_address(self._address)
            self._ray.init(self._address, logging_level=logging.ERROR, log_to_driver=False)
        except (OSError, ValueError, RuntimeError) as error:
            raise UsageError(f"Ray at {self._address or 'this machine'}: {reason(error)}") from error
        try:
            yield
        finally:
            self._ray.shutdown()

    def _counted(self, order: Order, planned: Sequence[Chunk], done: Mapping[int, Totals]) -> list[Chunk]:
        """The same chunks, each with its positions and those before it."""
        found = {index: totals.sent for index, totals in done.items()}
        left = [chunk for chunk in planned if chunk.index not in done]
        found |= {row["index"]: _read(row).sent for row in self._rows(chunks.count, order, left)}
        before = accumulate((found[chunk.index] for chunk in planned), initial=0)
        return [
            replace(chunk, seeds=seeds, positions=found[chunk.index])
            for chunk, seeds in zip(planned, before, strict=False)
        ]

    def _rows(self, work: ChunkWork, order: Order, left: Sequence[Chunk]) -> Iterator[dict[str, Any]]:
        cpus = int(self._ray.cluster_resources().get("CPU", 1))
        size = max(1, min(len(left), cpus, WORKERS_PER_GATEWAY * len(self._servers.urls)))
        data = self._ray.data.from_items([asdict(chunk) for chunk in left], override_num_blocks=len(left))
        data.context.enable_progress_bars = data.context.print_on_execution_start = False
        # Never: a chunk may take long, and the gateways' patience is what counts.
        data.context.execution_no_progress_timeout_s = -1
        rows: Iterator[dict[str, Any]] = data.map(
            ChunkWorker,
            fn_constructor_args=(work, replace(order, workers=size), self._servers),
            compute=self._ray.data.ActorPoolStrategy(size=size),
        ).iter_rows()
        return rows


def _read(row: dict[str, Any]) -> Totals:
    if row["error"]:
        raise (StoppedError if row["stopped"] else UsageError)(row["error"])
    return Totals.model_validate_json(row["totals"])


def _check_address(address: str | None) -> None:
    """Ray itself would try for minutes."""
    match = re.fullmatch(r"(?:ray://)?([^/]+):(\d+)", address or "")
    if match:
        socket.create_connection((match[1], int(match[2])), CONNECT_S).close()


@contextmanager
def _signals_restored() -> Iterator[None]:
    """Ray has its own handlers; those of before come back."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt_on_signals() -> None:
    """An event loop's handlers would wait for the loop, which waits for Ray."""
    if threading.current_thread() is threading.main_thread():
        for number in _SIGNALS:
            signal.signal(number, signal.default_int_handler)
