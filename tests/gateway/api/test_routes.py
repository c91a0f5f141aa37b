"""A stream's samples end with its response, however that ends."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import nullcontext
from typing import Any

import pytest

from nla_client.wire import SampleDelta, StreamEvent
from nla_gateway.api.routes import EventsResponse
from nla_gateway.errors import RequestTimeout

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
        await asyncio.sleep(60 if message["type"] == "http.response.body" else 0)

    async def stay_or_leave() -> dict[str, Any]:
        await asyncio.sleep(0.05 if leaves else 60)
        return {"type": "http.disconnect"}

    async def run() -> None:
        rest = events()
        response = EventsResponse(await anext(rest), rest, limit_s=0.2)
        await response({"type": "http", "asgi": {"spec_version": "2.3"}}, stay_or_leave, stuck)

    with nullcontext() if leaves else pytest.raises(RequestTimeout):
        asyncio.run(asyncio.wait_for(run(), 5))
    assert ended == [True]
