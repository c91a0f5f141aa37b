"""A stream's samples end with its response, however that ends."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from nla_client.wire import SampleDelta, StreamEvent
from nla_gateway.routes import EventsResponse

EVENT = SampleDelta(index=0, sample=0, text="a")


def test_a_reader_that_stops_reading_and_goes_ends_the_samples() -> None:
    ended: list[bool] = []

    async def events() -> AsyncGenerator[StreamEvent, None]:
        try:
            while True:
                yield EVENT
        finally:
            ended.append(True)

    async def stuck(message: Any) -> None:
        await asyncio.sleep(60 if message["type"] == "http.response.body" else 0)

    async def leave_soon() -> dict[str, Any]:
        await asyncio.sleep(0.05)
        return {"type": "http.disconnect"}

    async def run() -> None:
        rest = events()
        response = EventsResponse(await anext(rest), rest)
        await response({"type": "http", "asgi": {"spec_version": "2.3"}}, leave_soon, stuck)

    asyncio.run(asyncio.wait_for(run(), 5))
    assert ended == [True]
