import asyncio

import pytest

from nla_gateway.concurrency import Admission, gather
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
