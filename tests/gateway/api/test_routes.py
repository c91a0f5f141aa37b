"""Streams, which end with their response and never fall silent, and what /ready tells to whom."""

import asyncio
from collections.abc import AsyncGenerator
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


def test_proxies_pass_a_stream_on_and_do_not_close_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some keep a stream back that does not say otherwise, and most close one on which nothing comes for a minute."""
    assert routes.SIGN_OF_LIFE_S == 15
    monkeypatch.setattr(routes, "SIGN_OF_LIFE_S", 0.1)
    engine, encoded = StandIn(Role.AV), routes._encode_events
    engine.go_on.clear()

    async def watched(*events: Any) -> AsyncGenerator[str, None]:
        """The engine goes on after two comments, before there can be a third."""
        signs = 0
        async with aclosing(encoded(*events)) as pieces:
            async for piece in pieces:
                signs += piece == COMMENT
                if signs == 2:
                    monkeypatch.setattr(routes, "SIGN_OF_LIFE_S", 600)
                    engine.go_on.set()
                yield piece

    monkeypatch.setattr(routes, "_encode_events", watched)

    async def work(client: httpx.AsyncClient) -> None:
        await until_ready(client)
        body = {"vectors": encode(load_toy_vectors()[0]), "dtype": "float32", "stream": True}
        reply = await client.post("/verbalize", json=body)
        assert reply.headers["content-type"].startswith("text/event-stream")
        assert (reply.headers["cache-control"], reply.headers["x-accel-buffering"]) == ("no-cache", "no")
        assert [name for name, _ in events_of(reply.text)] == ["sample.delta"] * 2 + ["sample.done", "done"]
        first = reply.text.split("event: ")[1]
        assert f"}}\n\n{COMMENT}" in first
        assert first.count(COMMENT) == reply.text.count(COMMENT) == 2

    before(work, engine)


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
