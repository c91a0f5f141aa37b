import asyncio
import time
from typing import Any

import pytest

from nla_gateway.callers import Caller, Exchange, answering
from nla_gateway.engines import concurrency
from nla_gateway.engines.concurrency import SMALL_COMES_AGAIN_S, Admission, Owner, Room, Turns, gather, map_in_slices
from nla_gateway.errors import InvalidRequest, Overloaded
from nla_gateway.settings import Share


def test_gather_runs_together_and_keeps_the_order() -> None:
    log: list[int] = []
    ended = [asyncio.Event() for _ in range(6)]
    ended[5].set()

    async def number(value: int) -> int:
        await ended[value + 1].wait()
        log.append(value)
        ended[value].set()
        return value

    assert asyncio.run(asyncio.wait_for(gather(number(i) for i in range(5)), 60)) == [0, 1, 2, 3, 4]
    assert log == [4, 3, 2, 1, 0]


def test_the_first_failure_cancels_the_rest() -> None:
    cancelled: list[bool] = []

    async def slow() -> None:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    async def failing() -> None:
        await asyncio.sleep(0)
        raise InvalidRequest("no")

    with pytest.raises(InvalidRequest):
        asyncio.run(gather([slow(), failing()]))
    assert cancelled == [True]


def test_admission_is_bounded_and_gives_places_back() -> None:
    reported: list[int] = []
    admission = Admission(3, reported.append)
    with admission.admit(2):
        with pytest.raises(Overloaded) as caught, admission.admit(2):
            pass
        assert caught.value.retry_after_s
        with admission.admit(1):
            assert reported[-1] == 3
    assert reported[-1] == 0
    with admission.admit(10):
        pass
    assert reported == [2, 3, 2, 0, 10, 0]


def test_nobody_shuts_others_out() -> None:
    """Who came first may have all; others still get their part, and the first one no more."""
    first, second, third = (Caller(name, Share()) for name in ("first", "second", "third"))
    room = Room(12)
    room.hold(first, 12)
    for one, most in ((second, 6), (third, 4)):
        assert not room.has(first, 1)
        assert room.has(first, 0)
        assert not room.has(one, most + 1)
        assert room.has(one, most)
        room.hold(one, most)
    room.hold(first, -12)
    assert room.held == 10
    assert room.has(first, 4)
    assert not room.has(first, 5)
    for one, amount in ((second, -6), (third, -4)):
        room.hold(one, amount)
    assert room.held == 0
    assert room.has(third, 12)
    assert not room.has(third, 13)


def test_a_full_queue_is_full_for_those_who_filled_it() -> None:
    admission = Admission(8, [].append)
    greedy, other = (Exchange(Caller(name, Share())) for name in ("greedy", "other"))
    with answering(greedy), admission.admit(6), admission.admit(2):
        with pytest.raises(Overloaded), admission.admit(1):
            pass
        with answering(other), admission.admit(4), pytest.raises(Overloaded), admission.admit(1):
            pass


def test_map_in_slices_keeps_the_order_and_lets_others_in_between() -> None:
    async def work() -> list[str]:
        log: list[str] = []
        others = [asyncio.create_task(asyncio.sleep(0)) for _ in range(2)]
        for other in others:
            other.add_done_callback(lambda _: log.append("other"))
        await map_in_slices(lambda item: log.append(str(item)), range(200))
        await asyncio.gather(*others)
        return log

    log = asyncio.run(work())
    assert [entry for entry in log if entry != "other"] == [str(i) for i in range(200)]
    assert log.index("other") < 199


class Line:
    """Owners that hold their places until told to give one back."""

    def __init__(self, places: int, shared: int) -> None:
        self.turns = Turns(places, shared)
        self.holding: list[tuple[str, asyncio.Event]] = []
        self.tasks: list[asyncio.Task[None]] = []

    def ask(self, name: str, items: int) -> None:
        self.tasks += [asyncio.create_task(self._hold(Owner(name, items))) for _ in range(items)]

    async def _hold(self, owner: Owner) -> None:
        async with self.turns.turn(owner):
            done = asyncio.Event()
            self.holding.append((self.whose(owner), done))
            await done.wait()

    def whose(self, owner: Owner) -> str:
        return owner.name

    async def settle(self) -> list[str]:
        for _ in range(4):
            await asyncio.sleep(0)
        return [name for name, _ in self.holding]

    async def give_back(self, name: str) -> list[str]:
        """One place of an owner; returns who holds places then."""
        place = next(place for place in self.holding if place[0] == name)
        self.holding.remove(place)
        place[1].set()
        return await self.settle()


def test_large_calls_of_a_whole_engine_leave_it_free_for_as_long_as_they_took(monkeypatch: pytest.MonkeyPatch) -> None:
    """But only while small ones come in, and where they hold one place at a time."""
    monkeypatch.setattr(concurrency, "SMALL_COMES_AGAIN_S", 600)  # however long the machine stalls

    async def calls(turns: Turns, owner: Owner, count: int) -> float:
        started = time.monotonic()
        for _ in range(count):
            async with turns.turn(owner, whole=True):
                await asyncio.sleep(0.05)
        return time.monotonic() - started

    async def work() -> None:
        asked: list[float] = []
        loop = asyncio.get_running_loop()
        later = loop.call_later
        monkeypatch.setattr(loop, "call_later", lambda seconds, *rest: asked.append(seconds) or later(seconds, *rest))

        def pauses() -> list[float]:
            told = [seconds for seconds in asked if seconds != 0.05]
            asked.clear()
            return told

        shared, several = Turns(4, 1), Turns(4, 2)
        await calls(shared, Owner("many", 50), 3)
        assert pauses() == []
        await calls(shared, Owner("one", 1), 1)
        assert await calls(shared, Owner("many", 50), 3) >= 0.24  # two pauses between three calls
        assert len(told := pauses()) == 3
        assert min(told) >= 0.049
        await calls(several, Owner("one", 1), 1)
        await calls(several, Owner("many", 50), 3)
        assert pauses() == []
        async with shared.turn(Owner("many", 50)):
            await asyncio.sleep(0)
        assert pauses() == []

    asyncio.run(work())


def test_a_large_request_alone_takes_all_places_and_owners_take_turns() -> None:
    async def work() -> None:
        line = Line(4, 1)
        line.ask("many", 50)
        assert await line.settle() == ["many"] * 4
        line.ask("others", 50)
        for _ in range(4):
            await line.give_back("many")
        assert sorted(await line.settle()) == ["many"] * 2 + ["others"] * 2

    asyncio.run(work())


def test_large_requests_make_room_while_small_ones_come_in(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)

    async def work() -> None:
        nonlocal now
        line = Line(4, 1)
        line.ask("many", 50)
        await line.settle()
        line.ask("small", 1)
        assert await line.give_back("many") == ["many"] * 3 + ["small"]
        assert await line.give_back("small") == ["many"] * 3  # a place is kept for the next small one
        assert await line.give_back("many") == ["many"] * 2
        assert await line.give_back("many") == ["many"]
        assert await line.give_back("many") == ["many"]  # its share stays its own
        line.ask("small again", 2)
        assert await line.settle() == ["many", "small again", "small again"]
        now += SMALL_COMES_AGAIN_S + 1
        assert sorted(await line.give_back("small again")) == ["many"] * 3 + ["small again"]

    asyncio.run(work())


def test_places_are_given_back_however_their_holders_end() -> None:
    async def work() -> None:
        line = Line(3, 1)
        for k in range(200):
            line.ask(str(k % 7), 1 + k % 9)
            if k % 3 == 0:
                line.tasks[(k * 17) % len(line.tasks)].cancel()  # while it waits, holds, or was just given its place
            if k % 5 == 0:
                await line.settle()
            if line.holding and k % 2:
                line.holding.pop(0)[1].set()
        for task in line.tasks:
            task.cancel()
        await asyncio.gather(*line.tasks, return_exceptions=True)
        assert line.turns._free == 3
        assert line.turns._held_by_large == 0

    asyncio.run(work())


def caller(name: str, **share: Any) -> Caller:
    return Caller(name, Share(**share))


class Waiting(Line):
    """The same, by callers."""

    def join(self, owner: Owner, count: int) -> None:
        self.tasks += [asyncio.create_task(self._hold(owner)) for _ in range(count)]

    def whose(self, owner: Owner) -> str:
        return owner.caller.name

    async def next_ones(self, count: int) -> list[str]:
        """Give places back one by one, the oldest first; returns whose those are that are handed out then."""
        handed = []
        for _ in range(count):
            _, place = self.holding.pop(0)
            before = len(self.holding)
            place.set()
            await self.settle()
            handed += [name for name, _ in self.holding[before:]]
        return handed


@pytest.mark.parametrize(("weight", "share"), [(1.0, 20), (3.0, 30)])
def test_callers_get_places_by_their_weights_however_many_requests_they_send(weight: float, share: int) -> None:
    async def work() -> list[str]:
        line, ada, bob = Waiting(4, 4), caller("ada"), caller("bob", weight=weight)
        for k in range(9):
            line.join(Owner(f"many {k}", 100, ada), 20)
        line.join(Owner("one", 100, bob), 100)
        await line.settle()
        return await line.next_ones(40)

    turns = asyncio.run(work())
    assert abs(turns.count("bob") - share) <= 2
    assert len(turns) == 40


def test_small_requests_are_charged_to_their_caller_too() -> None:
    async def work() -> list[str]:
        line, ada, bob = Waiting(4, 4), caller("ada"), caller("bob")
        for k in range(60):
            line.join(Owner(f"small {k}", 1, ada), 1)
        await line.settle()
        await line.next_ones(20)
        line.join(Owner("a large one", 100, ada), 50)
        line.join(Owner("another", 100, bob), 50)
        return await line.next_ones(16)

    turns = asyncio.run(work())
    assert turns.count("bob") >= 8


def test_many_small_requests_are_a_large_one_beside_those_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """While another caller's single requests come in, a crowd holds few places, as a batch does; alone it has all."""
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)

    async def work() -> None:
        nonlocal now
        line, crowd, other = Waiting(8, 1), caller("crowd"), caller("other")

        def crowded(first: int, count: int) -> None:
            for number in range(first, first + count):
                line.join(Owner(f"small {number}", 1, crowd), 1)

        crowded(0, 30)
        assert await line.settle() == ["crowd"] * 8
        line.join(Owner("one", 1, other), 1)
        assert await line.next_ones(1) == ["other"]
        crowded(30, 30)
        await line.next_ones(40)  # those that came before, and some
        for _ in range(3):
            line.join(Owner("again", 1, other), 1)
            await line.settle()
            assert [name for name, _ in line.holding].count("crowd") <= 1
            assert [name for name, _ in line.holding].count("other") >= 1
            await line.next_ones(1)
        now += SMALL_COMES_AGAIN_S + 1
        await line.next_ones(1)
        assert len(line.holding) == 8

    asyncio.run(work())


def test_two_crowds_share_by_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither is taken for somebody who sits and waits, beyond the first moments."""
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)

    async def work() -> list[str]:
        nonlocal now
        line, callers = Waiting(8, 1), [caller("ada"), caller("bob")]
        for number in range(200):
            for one in callers:
                line.join(Owner(f"small {number}", 1, one), 1)
        await line.settle()
        now += SMALL_COMES_AGAIN_S + 1
        for number in range(200, 400):
            for one in callers:
                line.join(Owner(f"small {number}", 1, one), 1)
        await line.settle()
        await line.next_ones(60)
        return await line.next_ones(40)

    turns = asyncio.run(work())
    assert len(turns) == 40
    assert abs(turns.count("ada") - 20) <= 2


def test_a_caller_who_waited_for_nothing_has_saved_nothing_up() -> None:
    async def work() -> list[str]:
        line, ada, bob = Waiting(2, 2), caller("ada"), caller("bob")
        line.join(Owner("first", 100, ada), 60)
        await line.settle()
        assert await line.next_ones(20) == ["ada"] * 20
        line.join(Owner("late", 100, bob), 60)
        return await line.next_ones(10)

    turns = asyncio.run(work())
    assert abs(turns.count("ada") - 5) <= 1


def test_a_caller_holds_no_more_than_they_may_and_others_take_the_rest() -> None:
    async def work() -> None:
        line, ada, bob = Waiting(8, 8), caller("ada", max_in_flight=3), caller("bob")
        line.join(Owner("many", 100, ada), 20)
        assert await line.settle() == ["ada"] * 3
        line.join(Owner("others", 100, bob), 20)
        assert sorted(await line.settle()) == ["ada"] * 3 + ["bob"] * 5
        turns = await line.next_ones(30)
        assert [name for name, _ in line.holding].count("ada") <= 3
        assert (turns.count("ada"), turns.count("bob")) == (12, 15)

    asyncio.run(work())


def test_places_of_those_who_left_are_no_turns() -> None:
    async def work() -> list[str]:
        line, ada, bob = Waiting(1, 1), caller("ada"), caller("bob")
        line.join(Owner("first", 100, bob), 1)
        await line.settle()
        line.join(Owner("left", 100, ada), 20)
        line.join(Owner("there", 100, bob), 5)
        await line.settle()
        for task in line.tasks[1:21]:
            task.cancel()
        line.join(Owner("stays", 100, ada), 5)
        await line.settle()
        return await line.next_ones(6)

    assert asyncio.run(work()) == ["ada", "ada", "bob", "ada", "bob", "ada"]
