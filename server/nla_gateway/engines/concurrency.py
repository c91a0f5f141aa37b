"""Doing many things at once, and not too many: fan-out, fair turns, and the bounded queue."""

import asyncio
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar

from nla_gateway.callers import ANYONE, Caller, exchange
from nla_gateway.errors import Overloaded

S = TypeVar("S")
T = TypeVar("T")

Place = asyncio.Future[float]
"""Comes with the time at which it was given."""
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
    caller: Caller = ANYONE.caller

    @property
    def small(self) -> bool:
        """Whether somebody sits and waits for it, by its looks."""
        return self.items <= SMALL_REQUEST


class Shares:
    """Whose turn it is, by weighted fair queueing on start times: each place moves a caller back by 1 / weight.

    Who comes anew starts where the others are: nobody saves turns up.
    """

    def __init__(self) -> None:
        self._starts: dict[Caller, float] = {}
        self._now = 0.0

    def arrive(self, caller: Caller) -> None:
        """Note that a caller waits, who did not."""
        self._starts[caller] = max(self._now, self._starts.get(caller, 0.0))

    def first(self, callers: Iterable[Caller]) -> Caller | None:
        """Tell who of these is next; None where there are none."""
        return min(callers, key=lambda caller: self._starts[caller], default=None)

    def charge(self, caller: Caller) -> None:
        """Note that a caller got a place."""
        self._now = max(self._now, self._starts[caller])
        self._starts[caller] += 1 / caller.share.weight


class Line:
    """Those who wait for places: by callers, and of each of them by owners, which take turns."""

    def __init__(self) -> None:
        self.waiting: dict[Caller, dict[str, deque[Place]]] = {}

    def join(self, owner: Owner, place: Place) -> None:
        """Wait for a place."""
        self.waiting.setdefault(owner.caller, {}).setdefault(owner.name, deque()).append(place)

    def take(self, caller: Caller) -> Place:
        """Take out the next one of a caller's; it may have gone."""
        owners = self.waiting[caller]
        name = next(iter(owners))
        places = owners.pop(name)
        place = places.popleft()
        if places:
            owners[name] = places  # behind the caller's others
        if not owners:
            del self.waiting[caller]
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
        self._held, self._asked = Counter[Caller](), Counter[Caller]()
        self._held_by_large = 0
        self._small_until: dict[Caller, float] = {}
        self._shares = Shares()
        self._small, self._large = Line(), Line()

    @asynccontextmanager
    async def turn(self, owner: Owner, *, whole: bool = False) -> AsyncIterator[None]:
        """Wait for a place and hold it.

        Args:
            owner: who waits.
            whole: whether what is done there takes the whole engine. Where large requests hold one place while small
                ones come in, they then leave it free for as long as they had it, or small ones would mostly wait.
        """
        crowd = bool(owner.caller.name) and self._asked[owner.caller] >= SMALL_REQUEST
        small = owner.small and not (crowd and self.small_come_in(but=owner.caller))
        if owner.small and not crowd:  # a crowd is no sign of somebody who sits and waits
            self._small_until.pop(owner.caller, None)  # the last is always the latest
            self._small_until[owner.caller] = time.monotonic() + SMALL_COMES_AGAIN_S
        place: Place = asyncio.get_running_loop().create_future()
        if owner.caller not in self._small.waiting and owner.caller not in self._large.waiting:
            self._shares.arrive(owner.caller)
        self._asked[owner.caller] += 1
        (self._small if small else self._large).join(owner, place)
        self._hand_out()
        try:
            await place
            yield
        finally:
            self._asked[owner.caller] -= 1
            if place.done() and not place.cancelled():
                give_back = partial(self._give_back, owner.caller, large=not small)
                if (
                    whole
                    and not small
                    and self._shared == 1
                    and self.small_come_in(but=owner.caller if crowd else None)
                ):
                    asyncio.get_running_loop().call_later(time.monotonic() - place.result(), give_back)
                else:
                    give_back()

    def _give_back(self, caller: Caller, *, large: bool) -> None:
        self._hold(caller, -1, large=large)
        self._hand_out()

    def small_come_in(self, *, but: Caller | None = None) -> bool:
        """Whether small requests come in, of others than one caller."""
        latest = (until for caller, until in reversed(self._small_until.items()) if caller is not but)
        return time.monotonic() < next(latest, 0.0)

    def _hold(self, caller: Caller, places: int, *, large: bool) -> None:
        self._free -= places
        self._held[caller] += places
        self._held_by_large += places if large else 0

    def _hand_out(self) -> None:
        while self._free and (chosen := self._next()) is not None:
            line, caller = chosen
            place = line.take(caller)
            if not place.done():  # else its owner was cancelled
                self._shares.charge(caller)
                self._hold(caller, 1, large=line is self._large)
                place.set_result(time.monotonic())

    def _next(self) -> tuple[Line, Caller] | None:
        """Whom the next place is for."""
        small, large = self._first(self._small), self._first(self._large)
        if large is not None and self._held_by_large < self._shared:
            return self._large, large  # their share is theirs, however many small ones wait
        if small is not None:
            return self._small, small
        return (self._large, large) if large is not None and not self.small_come_in() else None

    def _first(self, line: Line) -> Caller | None:
        """Who is next in a line, of those who hold less than they may."""
        return self._shares.first(caller for caller in line.waiting if self._held[caller] < caller.most_in_flight)


class Room:
    """So much of something, which no caller can fill against others.

    Where all of it is held, a caller who holds less than an equal part is still let in. What is held may then be more
    than the limit, by the parts of those who came later: twice as much with four callers, three times with eleven.

    Args:
        limit: how much.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._held = Counter[Caller]()

    @property
    def held(self) -> int:
        """By all."""
        return self._held.total()

    def has(self, caller: Caller, amount: int) -> bool:
        """Whether a caller may have so much more."""
        sharing = len(self._held) + (caller not in self._held)
        fits = self.held + amount <= self.limit or self._held[caller] + amount <= self.limit // sharing
        return fits or not amount

    def hold(self, caller: Caller, amount: int) -> None:
        """Give a caller so much more, or take it back."""
        self._held[caller] += amount
        if not self._held[caller]:
            del self._held[caller]


class Admission:
    """Counts what is accepted and not yet answered, and refuses what would pass the limit.

    Args:
        limit: of the count.
        report: is told the count whenever it changes.
    """

    def __init__(self, limit: int, report: Callable[[int], None]) -> None:
        self._room, self._report = Room(limit), report

    @contextmanager
    def admit(self, items: int) -> Iterator[None]:
        """Hold places for `items` samples or texts.

        Raises:
            Overloaded: the queue is full. A lone request is taken whatever its size, or it could never be.
        """
        caller = exchange().caller
        if self._room.held and not self._room.has(caller, items):
            message = f"{self._room.held} samples and texts are waiting already; at most {self._room.limit} may"
            raise Overloaded(message, retry_after_s=RETRY_AFTER_S)
        self._change(caller, items)
        try:
            yield
        finally:
            self._change(caller, -items)

    def _change(self, caller: Caller, items: int) -> None:
        self._room.hold(caller, items)
        self._report(self._room.held)
