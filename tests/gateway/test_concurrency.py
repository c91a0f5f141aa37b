import asyncio

import pytest

from nla_gateway.concurrency import Admission, Turns, gather, map_in_slices
from nla_gateway.errors import InvalidRequest, Overloaded


async def number(value: int, log: list[int]) -> int:
    await asyncio.sleep(0.01 * (5 - value))
    log.append(value)
    return value


def test_gather_runs_together_and_keeps_the_order() -> None:
    log: list[int] = []
    assert asyncio.run(gather(number(i, log) for i in range(5))) == [0, 1, 2, 3, 4]
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
    admission = Admission(3)
    with admission.admit(2):
        with pytest.raises(Overloaded) as caught, admission.admit(2):
            pass
        assert caught.value.retry_after_s
        with admission.admit(1):
            assert admission.count == 3
    assert admission.count == 0
    with admission.admit(10):
        pass


def test_map_in_slices_keeps_the_order_and_lets_others_in_between() -> None:
    async def work() -> list[str]:
        log: list[str] = []
        others = [asyncio.create_task(number(5, [])) for _ in range(2)]
        for other in others:
            other.add_done_callback(lambda _: log.append("other"))
        await map_in_slices(lambda item: log.append(str(item)), range(200))
        await asyncio.gather(*others)
        return log

    log = asyncio.run(work())
    assert [entry for entry in log if entry != "other"] == [str(i) for i in range(200)]
    assert log.index("other") < 199


async def hold(turns: Turns, owner: str, log: list[str], running: set[object] | None = None) -> None:
    async with turns.turn(owner):
        log.append(owner)
        if running is not None:
            token = object()
            running.add(token)
            assert len(running) <= 2
            await asyncio.sleep(0)
            running.remove(token)
        await asyncio.sleep(0)


def test_turns_go_to_owners_not_to_whoever_waits_longest() -> None:
    async def work() -> list[str]:
        log: list[str] = []
        turns = Turns(2)
        many = [asyncio.create_task(hold(turns, "many", log, set())) for _ in range(50)]
        await asyncio.sleep(0)
        await asyncio.gather(*(hold(turns, owner, log) for owner in ("b", "c")))
        position = len(log)
        await asyncio.gather(*many)
        assert len(log) == 52
        return log[:position]

    assert len(asyncio.run(work())) < 15


def test_turns_are_given_back_however_their_holders_end() -> None:
    async def work() -> None:
        turns, log = Turns(2), list[str]()
        running = set[object]()
        for _ in range(20):
            tasks = [asyncio.create_task(hold(turns, str(i % 7), log, running)) for i in range(40)]
            for moment in range(8):
                await asyncio.sleep(0)
                for task in tasks[moment::8]:
                    task.cancel()  # while it waits, holds, or has just been given a place
            await asyncio.gather(*tasks, return_exceptions=True)
            running.clear()
        log.clear()
        await asyncio.wait_for(asyncio.gather(*(hold(turns, "last", log) for _ in range(6))), 1)
        assert turns._free == 2

    asyncio.run(work())
