"""Doing many things at once, and not too many: fan-out, fair turns, and the bounded queue."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final, TypeVar

from nla_gateway.errors import Overloaded

S = TypeVar("S")
T = TypeVar("T")

RETRY_AFTER_S: Final = 2
ITEMS_AT_A_TIME: Final = 32


async def gather(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Run all at the same time and return the results in order; the first failure cancels the rest."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(coroutine) for coroutine in work]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]


async def map_in_slices(function: Callable[[S], T], items: Iterable[S]) -> list[T]:
    """Apply a function to each item; the event loop gets on with other things every few items."""
    results = []
    for done, item in enumerate(items, 1):
        results.append(function(item))
        if done % ITEMS_AT_A_TIME == 0:
            await asyncio.sleep(0)
    return results


class Turns:
    """A number of places at a time, given in turn to each owner that waits.

    However many places one owner waits for, another's next one comes after at most one of them.
    """

    def __init__(self, places: int) -> None:
        self._free = places
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    @asynccontextmanager
    async def turn(self, owner: str) -> AsyncIterator[None]:
        """Wait for a place and hold it."""
        await self._take(owner)
        try:
            yield
        finally:
            self._give_back()

    async def _take(self, owner: str) -> None:
        if self._free:
            self._free -= 1
            return
        place = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(owner, deque()).append(place)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():  # given and cancelled in the same moment
                self._give_back()
            raise

    def _give_back(self) -> None:
        while self._waiting:
            owner = next(iter(self._waiting))
            places = self._waiting.pop(owner)
            place = places.popleft()
            if places:
                self._waiting[owner] = places  # behind the other owners
            if not place.done():
                place.set_result(None)
                return
        self._free += 1


class Admission:
    """Counts what is accepted and not yet answered, and refuses what would pass the limit."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.count = 0

    @contextmanager
    def admit(self, items: int) -> Iterator[None]:
        """Hold places for `items` samples or texts.

        Raises:
            Overloaded: the queue is full. A lone request is taken whatever its size, or it could never be.
        """
        if self.count and self.count + items > self.limit:
            message = f"{self.count} samples and texts are waiting already; at most {self.limit} may"
            raise Overloaded(message, retry_after_s=RETRY_AFTER_S)
        self.count += items
        try:
            yield
        finally:
            self.count -= items
