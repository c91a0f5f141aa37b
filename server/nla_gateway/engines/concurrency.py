"""Doing many things at once, and not too many: fan-out, fair turns, and the bounded queue."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from nla_gateway.callers import exchange
from nla_gateway.errors import Overloaded

S = TypeVar("S")
T = TypeVar("T")

RETRY_AFTER_S: Final = 2
ITEMS_AT_A_TIME: Final = 32
SMALL_REQUEST: Final = 4
"""Samples or texts up to which a request counts as small."""
SMALL_COMES_AGAIN_S: Final = 2.0
"""How long after a small request another one is expected."""


async def gather(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Run all at the same time and return the results in order; the first failure cancels the rest."""
    coroutines = list(work)
    if len(coroutines) == 1:  # needs no task of its own
        return [await coroutines[0]]
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(coroutine) for coroutine in coroutines]
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


@dataclass(frozen=True)
class Owner:
    """A request that waits for places, with the number of its samples or texts."""

    name: str
    items: int
    caller: str = ""
    weight: float = 1.0
    """Of the caller: how many turns they get, beside those of others."""

    @property
    def small(self) -> bool:
        """Whether somebody sits and waits for it, by its looks."""
        return self.items <= SMALL_REQUEST


class Line:
    """Those who wait for places: callers get them in proportion to their weights, the owners of each in turn.

    Weighted fair queueing by start times: each place that a caller gets moves them back by 1 / weight, and who comes
    anew starts where the others are.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, dict[str, deque[asyncio.Future[None]]]] = {}
        """By callers, and of each by owners."""
        self._starts: dict[str, float] = {}
        self._weights: dict[str, float] = {}
        self._now = 0.0

    def __bool__(self) -> bool:
        """Whether anybody waits."""
        return bool(self._waiting)

    def join(self, owner: Owner, place: asyncio.Future[None]) -> None:
        """Wait for a place."""
        if owner.caller not in self._waiting:
            self._starts[owner.caller] = max(self._now, self._starts.get(owner.caller, 0.0))
        self._weights[owner.caller] = owner.weight
        self._waiting.setdefault(owner.caller, {}).setdefault(owner.name, deque()).append(place)

    def next(self) -> asyncio.Future[None]:
        """Take out who is next; it may have gone, and then that was no turn."""
        caller = min(self._waiting, key=lambda name: self._starts[name])
        owners = self._waiting[caller]
        name = next(iter(owners))
        places = owners.pop(name)
        place = places.popleft()
        if places:
            owners[name] = places  # behind the caller's others
        if not owners:
            del self._waiting[caller]
        if not place.done():
            self._now = self._starts[caller]
            self._starts[caller] += 1 / self._weights[caller]
        return place


class Turns:
    """A number of places at a time, given in turn to each caller and owner that waits.

    While small requests come in, large ones hold few places in all: everything that runs slows down everything else.
    And however many places one owner waits for, another of its kind and caller waits for at most one of them.

    Args:
        places: how many.
        shared: how many of them large requests may hold while small ones come in.
    """

    def __init__(self, places: int, shared: int) -> None:
        self._free, self._shared = places, shared
        self._held_by_large = 0
        self._small_until = 0.0
        self._lines = {True: Line(), False: Line()}

    @asynccontextmanager
    async def turn(self, owner: Owner) -> AsyncIterator[None]:
        """Wait for a place and hold it."""
        if owner.small:
            self._small_until = time.monotonic() + SMALL_COMES_AGAIN_S
        place = asyncio.get_running_loop().create_future()
        self._lines[owner.small].join(owner, place)
        self._hand_out()
        try:
            await place
            yield
        finally:
            if place.done() and not place.cancelled():
                self._free += 1
                self._held_by_large -= not owner.small
                self._hand_out()

    def _hand_out(self) -> None:
        while self._free and (small := self._next_kind()) is not None:
            place = self._lines[small].next()
            if not place.done():  # else its owner was cancelled
                self._free -= 1
                self._held_by_large += not small
                place.set_result(None)

    def _next_kind(self) -> bool | None:
        """Which kind of request the next place is for: True for small, None for nobody."""
        small, large = self._lines[True], self._lines[False]
        if large and self._held_by_large < self._shared:
            return False  # their share is theirs, however many small ones wait
        if small:
            return True
        return False if large and time.monotonic() >= self._small_until else None


class Admission:
    """Counts what is accepted and not yet answered, and refuses what would pass the limit.

    Args:
        limit: of the count.
        report: is told the count whenever it changes.
    """

    def __init__(self, limit: int, report: Callable[[int], None]) -> None:
        self.limit, self._report = limit, report
        self.count = 0

    @contextmanager
    def admit(self, items: int) -> Iterator[None]:
        """Hold places for `items` samples or texts, of the caller's own, too.

        Raises:
            Overloaded: the queue is full. A lone request is taken whatever its size, or it could never be.
        """
        with exchange().caller.hold(items), self._admit(items):
            yield

    @contextmanager
    def _admit(self, items: int) -> Iterator[None]:
        if self.count and self.count + items > self.limit:
            message = f"{self.count} samples and texts are waiting already; at most {self.limit} may"
            raise Overloaded(message, retry_after_s=RETRY_AFTER_S)
        self._change(items)
        try:
            yield
        finally:
            self._change(-items)

    def _change(self, items: int) -> None:
        self.count += items
        self._report(self.count)
