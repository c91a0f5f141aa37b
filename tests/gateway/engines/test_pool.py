"""Engines of a pool: the least busy gets the work, and what is lost with one is done again."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from nla_gateway.engines.engine import Engine, EngineLostError
from nla_gateway.engines.pool import EnginePool, Mark
from nla_gateway.errors import EngineUnavailable
from nla_gateway.settings import EngineSettings
from nla_gateway.telemetry.metrics import Metrics


def pool(count: int, *, ready: bool = True) -> EnginePool:
    settings = EngineSettings(
        urls=tuple(f"http://127.0.0.1:{port + 1}" for port in range(count)), api_key="k", checkpoint=Path(), model="m",
        dtype="bfloat16", context_length=512, max_in_flight=4, shared_in_flight=2,
    )  # fmt: skip
    engines = EnginePool("verbalizer", settings, Metrics())
    for engine in engines.engines if ready else ():
        engines.set_state(engine, "ready")
    return engines


def test_the_engine_with_the_least_in_flight_is_next() -> None:
    two, seen = pool(2), []

    async def attempt(engine: Engine, number: int) -> None:
        seen.append(engine.label)
        await asyncio.sleep(0.01)

    async def run() -> None:
        await asyncio.gather(*(two.run(attempt) for _ in range(6)))

    asyncio.run(run())
    assert sorted(seen) == ["verbalizer 1"] * 3 + ["verbalizer 2"] * 3
    assert [engine.in_flight for engine in two.engines] == [0, 0]


def test_what_is_lost_with_one_engine_goes_to_the_other() -> None:
    two, tried = pool(2), []

    async def attempt(engine: Engine, number: int) -> str:
        tried.append((engine.label, number))
        if number == 0:  # whichever of the two equal ones had it
            two.set_state(engine, "restarting")
            raise EngineLostError
        return "done"

    assert asyncio.run(two.run(attempt)) == "done"
    (first, _), (second, _) = tried
    assert {first, second} == {"verbalizer 1", "verbalizer 2"}
    assert [number for _, number in tried] == [0, 1]


def test_a_request_that_may_be_what_kills_engines_is_not_tried_for_ever() -> None:
    one, tried = pool(1), []

    async def attempt(engine: Engine, number: int) -> None:
        tried.append(number)
        if number % 2:  # noticed at the second try
            one.set_state(engine, "restarting")
            one.set_state(engine, "ready")
        raise EngineLostError

    with pytest.raises(EngineUnavailable, match="was lost 3 times with this request"):
        asyncio.run(one.run(attempt))
    assert tried == [0, 1, 2, 3]


def test_a_lone_engine_is_waited_for() -> None:
    one = pool(1, ready=False)

    async def run() -> tuple[list[str], list[str]]:
        async def attempt(engine: Engine, number: int) -> str:
            if number == 0:
                one.set_state(engine, "restarting")
                raise EngineLostError
            return f"attempt {number}"

        work = asyncio.create_task(one.run(attempt))
        states = []
        for state in ("ready", "restarting", "hung", "ready"):
            one.set_state(one.engines[0], state)  # type: ignore[arg-type]
            await asyncio.sleep(0.3)
            states.append("done" if work.done() else "waiting")
        return states, [await work]

    assert asyncio.run(run()) == (["waiting", "waiting", "waiting", "done"], ["attempt 1"])


def test_a_stream_that_starts_over_says_so() -> None:
    one = pool(1)

    async def attempt(engine: Engine, number: int) -> AsyncGenerator[str, None]:
        yield "a"
        if number == 0:
            raise EngineLostError
        yield "b"

    async def run() -> list[str | Mark]:
        return [piece async for piece in one.stream(attempt)]

    assert asyncio.run(run()) == ["a", Mark.ANEW, "a", "b"]


def test_a_gateway_that_stops_waits_for_nobody() -> None:
    gone = pool(1, ready=False)

    async def attempt(engine: Engine, number: int) -> None:
        raise AssertionError

    async def run() -> None:
        work = asyncio.create_task(gone.run(attempt))
        await asyncio.sleep(0)
        gone.leave()
        await work

    with pytest.raises(EngineUnavailable, match="this server stops"):
        asyncio.run(run())


def test_why_nothing_is_ready() -> None:
    two = pool(2, ready=False)
    for states, words in [
        (("starting", "failed"), "still starting"),
        (("restarting", "hung"), "is being restarted"),
        (("failed", "failed"), "failed its self-test: no weights"),
    ]:
        for engine, state in zip(two.engines, states, strict=True):
            two.set_state(engine, state, "no weights")  # type: ignore[arg-type]
        with pytest.raises(EngineUnavailable, match=words):
            two.require_ready()
    two.set_state(two.engines[1], "ready")
    two.require_ready()
