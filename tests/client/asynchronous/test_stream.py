import asyncio
import gc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nla_client import (
    APIConnectionError,
    APITimeoutError,
    AsyncEventStream,
    ClientStateError,
    EventStream,
    InvalidResponseError,
    OverloadedError,
    SampleDelta,
    SampleDone,
    SampleError,
    StreamDone,
)
from nla_client.sending.events import EventParser
from nla_client.wire import ErrorDetail, Usage

ODD = "line one\nand \u2028 separators \u0085 \x0b too ㈎"
EVENTS = [
    SampleDelta(index=0, sample=0, text=ODD),
    SampleError(
        index=1,
        sample=0,
        error=ErrorDetail(type="internal", message="no", param=None, request_id="r"),
    ),
    SampleDone(index=0, sample=0, text=ODD, complete=True, finish_reason="stop", score=None),
    StreamDone(usage=Usage(prompt_tokens=1, cached_tokens=0, completion_tokens=2)),
]
NAMES = ["sample.delta", "error", "sample.done", "done"]


@pytest.fixture
def wire_bytes(sse: Callable[..., bytes]) -> Any:
    events = b"".join(sse(name, event) for name, event in zip(NAMES, EVENTS, strict=True))
    return b": hello\n\nevent: newer\ndata: {}\n\n: keep-alive\n\n" + events


class Body(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body in chunks, which may break off, and which knows whether it was closed."""

    def __init__(self, chunks: Any, error: Any = None) -> None:
        self.chunks, self.error, self.closed = chunks, error, False

    def __iter__(self) -> Any:
        yield from self.chunks
        if self.error:
            raise self.error

    async def __aiter__(self) -> Any:
        for chunk in self:
            yield chunk

    def close(self) -> None:
        self.closed = True

    async def aclose(self) -> None:
        self.closed = True


@settings(deadline=None)  # a busy machine is no failure
@given(st.data())
def test_parser_does_not_mind_where_chunks_end(data: Any) -> None:
    def event(name: Any, model: Any) -> Any:
        return f"event: {name}\ndata: {model.model_dump_json()}\n\n".encode()

    whole = b"".join(event(name, model) for name, model in zip(NAMES, EVENTS, strict=True))
    if data.draw(st.booleans()):
        whole = whole.replace(b"\n", b"\r\n")
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    parser, got = EventParser(), []
    for start, stop in zip([0, *cuts], [*cuts, len(whole)], strict=True):
        got += parser.feed(whole[start:stop])
    assert got == EVENTS


def test_parser_takes_data_in_several_lines_and_refuses_what_does_not_fit() -> None:
    assert EventParser().feed(b'event:sample.delta\ndata:{"index":0,\ndata:"sample":0,"text":"a"}\n\n') == [
        SampleDelta(index=0, sample=0, text="a")
    ]
    with pytest.raises(InvalidResponseError, match=r"`done` event"):
        EventParser().feed(b"event: done\ndata: {}\n\n")


def test_events_are_typed(faces: Any, server: Any, wire_bytes: bytes) -> None:
    body = Body([wire_bytes[k : k + 7] for k in range(0, len(wire_bytes), 7)])
    server.script = [httpx.Response(200, stream=body)]
    assert faces.nla().events([1.0, 2.0], n=3) == EVENTS
    assert body.closed
    assert server.bodies[0]["stream"] is True
    assert server.bodies[0]["n"] == 3


@pytest.mark.parametrize(
    ("error", "cls"),
    [
        (None, APIConnectionError),
        (httpx.ReadError("reset"), APIConnectionError),
        (httpx.ReadTimeout("slow"), APITimeoutError),
    ],
)
def test_a_stream_that_breaks_off(faces: Any, server: Any, wire_bytes: bytes, error: Any, cls: Any) -> None:
    body = Body([wire_bytes[:-1]], error)
    server.script = [httpx.Response(200, stream=body)]
    with pytest.raises(cls) as caught:
        faces.nla().events([1.0])
    assert type(caught.value) is cls
    assert body.closed
    assert len(server.requests) == 1


def test_opening_is_retried_and_then_fails_as_any_call(
    faces: Any, server: Any, error_body: Callable[..., dict[str, Any]], wire_bytes: bytes
) -> None:
    full = httpx.Response(429, json=error_body("overloaded"))
    server.script = [full, httpx.Response(200, stream=Body([wire_bytes]))]
    assert faces.nla().events([1.0]) == EVENTS
    server.script = [full]
    with pytest.raises(OverloadedError):
        faces.nla(max_retries=0).events([1.0])


@pytest.mark.parametrize("started", [False, True])
def test_closing_early_closes_the_response(wire_bytes: bytes, started: Any) -> None:
    body = Body([wire_bytes])
    with EventStream(httpx.Response(200, stream=body)) as stream:
        assert not started or next(stream) == EVENTS[0]
    assert body.closed
    assert list(stream) == []

    async def leave_early() -> Any:
        abody = Body([wire_bytes])
        async with AsyncEventStream(httpx.Response(200, stream=abody)) as astream:
            assert not started or await anext(astream) == EVENTS[0]
        assert [event async for event in astream] == []
        return abody.closed

    assert asyncio.run(leave_early())


@pytest.mark.parametrize("started", [False, True])
def test_dropping_a_stream_closes_the_response(wire_bytes: bytes, started: bool) -> None:
    gc.disable()
    try:
        body = Body([wire_bytes])
        stream = EventStream(httpx.Response(200, stream=body))
        assert not started or next(stream) == EVENTS[0]
        del stream
        assert body.closed

        async def drop() -> bool:
            abody = Body([wire_bytes])
            astream = AsyncEventStream(httpx.Response(200, stream=abody))
            assert not started or await anext(astream) == EVENTS[0]
            del astream
            while not abody.closed:  # noqa: ASYNC110 - the body tells nobody
                await asyncio.sleep(0.01)
            return True

        assert asyncio.run(asyncio.wait_for(drop(), 60))
    finally:
        gc.enable()


def test_a_stream_dropped_after_its_loop_has_ended_raises_nothing(wire_bytes: bytes) -> None:
    async def keep() -> AsyncEventStream:
        return AsyncEventStream(httpx.Response(200, stream=Body([wire_bytes])))

    stream = asyncio.run(keep())

    with pytest.raises(ClientStateError, match="another process or event loop"):
        asyncio.run(anext(stream))
    del stream


def test_several_threads_may_share_a_stream(wire_bytes: bytes) -> None:
    body = Body([wire_bytes[k : k + 1] for k in range(len(wire_bytes))])
    stream = EventStream(httpx.Response(200, stream=body))
    with ThreadPoolExecutor(4) as pool:
        read = [event for events in pool.map(lambda _: list(stream), range(4)) for event in events]
    assert sorted(map(repr, read)) == sorted(map(repr, EVENTS))
