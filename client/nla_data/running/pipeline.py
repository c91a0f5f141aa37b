"""From rows to results: reads ahead, keeps the gateways busy, and hands results on in input order.

What is read and not yet handed on is bounded, whatever the input's size.
"""

import asyncio
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

from nla_data.asking.tasks import Task
from nla_data.asking.work import Done, Work
from nla_data.reading.source import Piece
from nla_data.running.blocking import Worker
from nla_data.running.gateways import Gateways
from nla_data.writing.parts import PartWriter

AHEAD: Final = 3
"""Pieces that may be read and not yet handed on, for each request in flight: so far ahead of a slow one others go."""


@dataclass(frozen=True)
class _Turn:
    """A piece on its way.

    Attributes:
        work: Its rows.
        weight: How much of what may be held at once it takes, in pieces.
        offset: Is set once it is known how many seeds the pieces before take.
        next_offset: The same of the piece after it.
        done: Is set once it is answered.
    """

    work: Work
    weight: float
    offset: "asyncio.Future[int]"
    next_offset: "asyncio.Future[int]"
    done: "asyncio.Future[Done]"


class Pipeline:
    """One pass over pieces of the input.

    Args:
        task: What is done with them.
        gateways: Who does it, connected.
        writer: What takes the results.
        storage: In which they are written.
        tell: Called after each result.
    """

    def __init__(
        self, task: Task, gateways: Gateways, writer: PartWriter, storage: Worker, tell: Callable[[], None]
    ) -> None:
        self._task, self._gateways, self._writer, self._tell = task, gateways, writer, tell
        self._storage = storage
        self._most = AHEAD * gateways.in_flight
        self._in_order: asyncio.Queue[_Turn | None] = asyncio.Queue(self._most)
        self._unanswered: asyncio.Queue[_Turn] = asyncio.Queue()
        self._held, self._weight, self._room = 0, 0.0, asyncio.Event()
        self._call = gateways.bounded()

    async def run(self, pieces: Iterator[Piece], d_model: int, stopped: threading.Event) -> None:
        """Do all pieces. Whatever ends it, results up to the first that is missing are written, if storage takes them.

        Args:
            pieces: The rows that are left.
            d_model: Elements of a vector.
            stopped: Ends a `next` of `pieces` that is under way in the reading thread.

        Raises:
            DataError: it cannot go on.
        """
        works = self._works(pieces, d_model)
        try:
            async with asyncio.TaskGroup() as group:
                workers = [group.create_task(self._work()) for _ in range(self._gateways.in_flight)]
                group.create_task(self._read(works, stopped))
                await self._write()
                for worker in workers:
                    worker.cancel()
            await self._storage.do(self._writer.finish)
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
        finally:
            await self._storage.do(self._writer.flush)

    def _works(self, pieces: Iterator[Piece], d_model: int) -> Iterator[Work]:
        for piece in pieces:
            yield replace(self._task.prepare(piece, d_model), piece=piece.only(self._writer.carried))

    async def _read(self, works: Iterator[Work], stopped: threading.Event) -> None:
        loop = asyncio.get_running_loop()
        offset = loop.create_future()
        offset.set_result(self._writer.state.totals.sent)
        async with Worker(stopped) as reader:
            while (work := await reader.do(partial(next, works, None))) is not None:
                turn = _Turn(work, work.piece.weight, offset, loop.create_future(), loop.create_future())
                offset = turn.next_offset
                await self._take_room(turn)
                await self._in_order.put(turn)
                self._unanswered.put_nowait(turn)
        await self._in_order.put(None)

    async def _work(self) -> None:
        while True:
            turn = await self._unanswered.get()
            work = await self._task.plan(self._call, turn.work)
            # Turns are taken in order, so that the one before is on its way, and waits for none after it.
            work = replace(work, offset=await turn.offset)
            turn.next_offset.set_result(work.offset + work.seeds)
            turn.done.set_result(await self._task.answer(self._call, work))

    async def _take_room(self, turn: _Turn) -> None:
        """Wait until a piece may be held; one that is too large by itself is held alone."""
        while self._held and self._weight + turn.weight > self._most:
            self._room.clear()
            await self._room.wait()
        self._held, self._weight = self._held + 1, self._weight + turn.weight

    async def _write(self) -> None:
        while (turn := await self._next()) is not None:
            await self._flush_until(turn.done)
            self._writer.take(turn.work, turn.done.result())
            self._held, self._weight = self._held - 1, self._weight - turn.weight
            self._room.set()
            await self._flush_if_due()
            self._tell()

    async def _next(self) -> _Turn | None:
        turn = asyncio.create_task(self._in_order.get())
        try:
            await self._flush_until(turn)
            return turn.result()
        finally:
            turn.cancel()

    async def _flush_until(self, waited_for: "asyncio.Future[Any]") -> None:
        """Wait, and meanwhile write what becomes due: rows may be long in coming, and answers too."""
        while not waited_for.done():
            await asyncio.wait({waited_for}, timeout=self._writer.due_in)
            await self._flush_if_due()

    async def _flush_if_due(self) -> None:
        if self._writer.due_in == 0:
            await self._storage.do(self._writer.flush)
