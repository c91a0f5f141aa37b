"""Streams, which end with their response and never fall silent, and what /ready tells to whom."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, nullcontext
from typing import Any

import httpx
import pytest

from nla_client.wire import SampleDelta, StreamEvent
from nla_gateway.api import routes
from nla_gateway.api.routes import EventsResponse
from nla_gateway.errors import RequestTimeout
from nla_gateway.roles import Role
from nla_gateway.settings import Access
from tests.errors import error_in
from tests.gateway.stand_in import StandIn, before, until_ready
from tests.plain import encode, events_of, load_toy_vectors

EVENT = SampleDelta(index=0, sample=0, text="a")


@pytest.mark.parametrize("leaves", [True, False])
def test_a_reader_that_stops_reading_ends_the_samples(leaves: bool) -> None:
    ended: list[bool] = []

    async def events() -> AsyncGenerator[StreamEvent, None]:
        try:
            while True:
                yield EVENT
        finally:
            ended.append(True)

    async def stuck(message: Any) -> None:
        await asyncio.sleep(600 if message["type"] == "http.response.body" else 0)

    async def stay_or_leave() -> dict[str, Any]:
        await asyncio.sleep(0.05 if leaves else 600)
        return {"type": "http.disconnect"}

    async def run() -> None:
        rest = events()
        response = EventsResponse(await anext(rest), rest, limit_s=600 if leaves else 0.2)
        await response({"type": "http", "asgi": {"spec_version": "2.3"}}, stay_or_leave, stuck)

    with nullcontext() if leaves else pytest.raises(RequestTimeout):
        asyncio.run(asyncio.wait_for(run(), 60))
    assert ended == [True]


COMMENT = ": still at it\n\n"
STREAM = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",
}


def after_two_signs(monkeypatch: pytest.MonkeyPatch, go_on: Callable[[], None]) -> None:
    """Have streams give a sign of life often, twice, and do something then, before there can be a third."""
    assert routes.SIGN_OF_LIFE_S == 15
    monkeypatch.setattr(routes, "SIGN_OF_LIFE_S", 0.1)
    told = routes._with_signs_of_life

    async def watched(*arguments: Any) -> AsyncGenerator[Any, None]:
        signs = 0
        async with aclosing(told(*arguments)) as events:
            async for event in events:
                signs += event is None
                if signs == 2:
                    monkeypatch.setattr(routes, "SIGN_OF_LIFE_S", 600)
                    go_on()
                yield event

    monkeypatch.setattr(routes, "_with_signs_of_life", watched)


@pytest.mark.parametrize("silent", ["before the first event", "after it"])
def test_proxies_pass_a_stream_on_and_do_not_close_it(silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some keep a stream back that does not say otherwise, and most close one on which nothing comes for a minute."""
    engine, before_it = StandIn(Role.AV), silent == "before the first event"
    held = engine.begin if before_it else engine.go_on

    async def work(client: httpx.AsyncClient) -> None:
        await until_ready(client)
        held.clear()
        after_two_signs(monkeypatch, held.set)
        body = {"vectors": encode(load_toy_vectors()[0]), "dtype": "float32", "stream": True}
        reply = await client.post("/verbalize", json=body)
        assert reply.headers.items() >= STREAM.items()
        assert list(dict.fromkeys(name for name, _ in events_of(reply.text))) == ["sample.delta", "sample.done", "done"]
        start, first, *_ = reply.text.split("event: ")
        assert start == COMMENT * 2 * before_it
        assert first.count(COMMENT) == 2 * (not before_it)
        assert reply.text.count(COMMENT) == 2

    before(work, engine)


@pytest.mark.parametrize("silent", [True, False])
def test_a_source_that_fails_after_long_silence_is_told_of_in_the_stream(
    silent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By then the status is out: each sample has failed. Before, it is told by the status."""
    source = StandIn(Role.SOURCE)

    def fail() -> None:
        source.broken = True
        source.begin.set()

    async def work(client: httpx.AsyncClient) -> None:
        await until_ready(client)
        body = {"texts": "one two three", "positions": [0, -1], "n": 2}
        with monkeypatch.context() as patch:
            if silent:
                source.begin.clear()
                after_two_signs(patch, fail)
            else:
                fail()
            reply = await client.post("/explain", json=body | {"stream": True})
            whole = await client.post("/explain", json=body)
        if not silent:
            assert (reply.status_code, error_in(reply).type) == (whole.status_code, error_in(whole).type)
            return
        assert reply.status_code == 200
        *failed, (last, told) = events_of(reply.text)
        assert last == "done"
        assert set(told["usage"].values()) == {0}
        assert [name for name, _ in failed] == ["error"] * 4
        places = [(one["index"], one["position"], one["sample"]) for _, one in failed]
        final = max(position for _, position, _ in places)
        assert places == [(0, 0, 0), (0, 0, 1), (0, final, 0), (0, final, 1)]
        for _, one in failed:
            assert one["error"] == {**one["error"], "type": error_in(whole).type, "message": error_in(whole).message}

    before(work, StandIn(Role.AV), source)


SAID = "out of memory in /home/ada/kernels.py"


@pytest.mark.parametrize("broken", [{"refusal": SAID}, {"missing_hooks": [SAID]}], ids=["starting", "failed"])
def test_what_an_engine_says_is_for_callers_with_a_key(broken: dict[str, Any]) -> None:
    async def work(client: httpx.AsyncClient) -> None:
        async def ready(key: str | None) -> httpx.Response:
            return await client.get("/ready", headers={} if key is None else {"authorization": f"Bearer {key}"})

        while SAID not in (told := await ready("k")).text:  # noqa: ASYNC110 - states are asked for, over HTTP
            await asyncio.sleep(0.02)
        for reply in (await ready(None), await ready("another")):
            assert SAID not in reply.text
            engine, same = reply.json()["engines"]["verbalizer"], told.json()["engines"]["verbalizer"]
            assert engine == same | {"reason": None}
            assert error_in(reply).message == f"the verbalizer is {engine['state']}"

    before(work, StandIn(Role.AV, **broken), access=Access(api_keys={"ada": "k"}))
