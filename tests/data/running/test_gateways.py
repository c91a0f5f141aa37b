"""How long requests are tried: limits a minute that tell to wait, and a run's patience. No test waits for it."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np
import pytest
from fastapi.responses import JSONResponse

from nla_data.asking.work import Clients
from nla_data.errors import StoppedError
from nla_data.running.gateways import FIRST_PAUSE_S, MAX_TRIES, MAX_TURN_S, PATIENCE_S, Gateways
from tests.data.conftest import Clock
from tests.data.gateway import D, FakeGateway, failure, fake_gateway, limited

VECTOR = np.ones(D, np.float32)


async def ask(clients: Clients) -> str:
    return (await clients.nla.verbalize(VECTOR)).text


def run(
    gateway: FakeGateway,
    work: Callable[[Gateways], Awaitable[Any]],
    patience: float = PATIENCE_S,
    others: Sequence[FakeGateway] = (),
) -> Any:
    """What comes of a work with the gateways of a run, which are mostly one."""

    async def connected() -> Any:
        async with Gateways([gateway.url, *(other.url for other in others)], None, patience) as them:
            await them.connect()
            return await work(them)

    return asyncio.run(connected())


def script(gateway: FakeGateway, *replies: Any) -> list[Any]:
    """Let these come first, None for an answer; what is left of them."""
    left = list(replies)
    gateway.trouble = lambda _path, _body: left.pop(0) if left else None
    return left


def test_a_limit_is_waited_for_as_told_and_costs_no_try(gateway: FakeGateway, clock: Clock) -> None:
    failures = [failure("internal")] * (MAX_TRIES - 1)
    left = script(gateway, None, *[limited(7)] * MAX_TRIES, *failures, *[limited(0.25, "tokens")] * MAX_TRIES)

    async def work(them: Gateways) -> None:
        for _ in range(2):  # a gateway that has answered is well: its failures count
            assert await them.call(ask) == "1 0"

    run(gateway, work)
    assert left == []
    between = [FIRST_PAUSE_S * (1 + k) for k in range(len(failures))]
    assert clock.pauses == [7] * MAX_TRIES + between + [0.25] * MAX_TRIES


@pytest.mark.parametrize("told", [0, 7, 300])
def test_a_run_that_limits_refuse_for_ever_stops(gateway: FakeGateway, clock: Clock, told: float) -> None:
    script(gateway, None, *[limited(told, "tokens")] * 1000)

    async def work(them: Gateways) -> None:
        await them.call(ask)
        clock.now += 1000
        await them.call(ask)

    with pytest.raises(
        StoppedError, match=r"no answer for 50 s \(429 .*limit tokens a minute, come again in"
    ) as caught:
        run(gateway, work, patience=50)
    assert "run the same command again" in str(caught.value)
    assert 1000 + told + 50 <= clock.now <= 1000 + told + 50 + min(told or FIRST_PAUSE_S, MAX_TURN_S)


def test_a_run_that_limits_slow_down_goes_on(gateway: FakeGateway, clock: Clock) -> None:
    """Each answer uses up what there is for longer than the run's patience."""
    free = 0.0

    def trouble(_path: str, _body: Any) -> Any:
        nonlocal free
        if clock.now < free:
            return limited(free - clock.now)
        free = clock.now + 1000
        return None

    async def work(them: Gateways) -> None:
        for _ in range(5):
            assert await them.call(ask) == "1 0"

    gateway.trouble = trouble
    run(gateway, work, patience=1)
    assert clock.now == 4000
    assert max(clock.pauses) == MAX_TURN_S


def test_what_others_are_answered_takes_nothing_of_a_wait(gateway: FakeGateway, clock: Clock) -> None:
    left = script(gateway, limited(60), limited(60))

    async def work(them: Gateways) -> str:
        async def meanwhile(pause: int) -> None:
            if pause == 1:
                assert await them.call(ask) == "1 0"

        clock.meanwhile = meanwhile
        return await them.call(ask)

    assert run(gateway, work, patience=1) == "1 0"
    assert left == []
    assert clock.pauses == [60, 60]


def test_what_a_limit_refuses_another_gateway_takes(gateway: FakeGateway, clock: Clock) -> None:
    """It is of a server of its own, where the key has limits of its own; only where all refuse is a wait."""
    with fake_gateway() as other:
        left = script(gateway, limited(60), limited(7))

        async def work(them: Gateways) -> None:
            for _ in range(3):
                assert await them.call(ask) == "1 0"
            assert (len(left), clock.pauses) == (1, [])
            script(other, limited(90))
            clock.now += 60
            assert await them.call(ask) == "1 0"

        run(gateway, work, others=[other])
        assert left == []
        assert clock.pauses == [7]


def test_what_an_answer_foresees_is_waited_for_before_it_is_refused(gateway: FakeGateway, clock: Clock) -> None:
    told = {"limit": "2", "remaining": "0", "reset": "60.000s"}
    headers = {f"x-ratelimit-{what}-requests": value for what, value in told.items()}
    gateway.trouble = lambda path, body: JSONResponse(gateway.answer(path, body), headers=headers)

    async def work(them: Gateways) -> None:
        for one in them._gateways:
            one.clients.nla._connection._allowances._clock = clock.monotonic
        for _ in range(3):
            assert await them.call(ask) == "1 0"

    run(gateway, work, patience=1)
    assert len(gateway.seen) == 3  # each was answered
    assert clock.pauses == [pytest.approx(30, abs=0.01)] * 2


def test_no_other_refusal_ends_a_run_that_was_told_to_wait(gateway: FakeGateway, clock: Clock) -> None:
    script(gateway, limited(300), *[failure("overloaded")] * 100)
    assert run(gateway, lambda them: them.call(ask), patience=10) == "1 0"
    script(gateway, limited(0), *[failure("overloaded")] * 100)
    with pytest.raises(StoppedError, match="no answer for 10 s"):
        run(gateway, lambda them: them.call(ask), patience=10)
    assert clock.now < 200
