"""Unread pieces of a sample become one event, in order, and nobody who adds any waits."""

import asyncio

from nla_client.wire import SampleDelta, StreamDone, Usage
from nla_gateway.api.outbox import Outbox

END = StreamDone(usage=Usage(prompt_tokens=0, cached_tokens=0, completion_tokens=0))


def test_pieces_wait_as_one() -> None:
    async def run() -> list[object]:
        outbox = Outbox()
        for number in range(1000):
            outbox.add((number % 2, 0), str(number % 10))
        outbox.end(END)
        first = await outbox.get()
        outbox.add((0, 0), "later")
        return [first, *[await outbox.get() for _ in range(3)]]

    first, second, end, later = asyncio.run(run())
    assert first == SampleDelta(index=0, sample=0, text="02468" * 100)
    assert second == SampleDelta(index=1, sample=0, text="13579" * 100)
    assert (end, later) == (END, SampleDelta(index=0, sample=0, text="later"))
