"""`POST /verbalize` with stream=true: server-sent events to typed events.

`EventParser` does no I/O; the two iterators differ only by `await`.
"""

import asyncio
import contextlib
import os
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from types import TracebackType
from typing import ClassVar, Final, Self

import httpx
from pydantic import ValidationError

from nla_client.errors import APIConnectionError, ClientStateError, InvalidResponseError
from nla_client.failures import transport_error
from nla_client.wire import EVENT_NAMES, StreamDone, StreamEvent

_MODELS: Final = {name: model for model, name in EVENT_NAMES.items()}
_WHERE: Final = "reading the stream"
_ELSEWHERE: Final = "the stream was opened in another process or event loop: open it where it is read"
_TRUNCATED: Final = "the stream ended before its `done` event"


class EventParser:
    """Feed it bytes as they come; it gives the events that they complete.

    Lines are split here and not by `httpx.Response.iter_lines`, which also splits at U+2028, U+0085 and the
    like: JSON may hold them raw, and texts of models do.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._name = ""
        self._data: list[bytes] = []

    def feed(self, chunk: bytes) -> list[StreamEvent]:
        """Parse one chunk, of any size.

        Raises:
            InvalidResponseError: an event whose data does not fit the contract.
        """
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        events = (self._line(line.removesuffix(b"\r")) for line in lines)
        return [event for event in events if event is not None]

    def _line(self, line: bytes) -> StreamEvent | None:
        if not line:
            return self._dispatch()
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"event":
            self._name = value.decode("utf-8", "replace")
        elif field == b"data":
            self._data.append(value)
        return None  # a comment (an empty field name) or a field that means nothing here

    def _dispatch(self) -> StreamEvent | None:
        name, data = self._name, b"\n".join(self._data)
        self._name, self._data = "", []
        model = _MODELS.get(name)
        if model is None or not data:
            return None  # a keep-alive, or an event of a newer server
        try:
            return model.model_validate_json(data)
        except ValidationError as error:
            raise InvalidResponseError(f"a `{name}` event of the stream does not fit the contract") from error


class EventStream(Iterator[StreamEvent]):
    """Events of one streamed request, the last a `StreamDone`. Closing or dropping it early makes the server stop.

    Iterating raises APIConnectionError (or APITimeoutError) where the stream breaks off, InvalidResponseError for an
    event that does not fit the contract, and ClientStateError in another process. Several threads may share it.
    """

    def __init__(self, response: httpx.Response) -> None:
        self._response = response
        self._events = _read(response)
        self._process, self._turn = os.getpid(), threading.Lock()

    def __next__(self) -> StreamEvent:
        if os.getpid() != self._process:
            raise ClientStateError(_ELSEWHERE)
        with self._turn:
            return next(self._events)

    def __del__(self) -> None:
        # Of one that never began, the generator has no end that would close the response.
        if os.getpid() == self._process:
            with contextlib.suppress(Exception):  # at the interpreter's end little is left to close it with
                self._response.close()

    def close(self) -> None:
        """End the request; the server stops sampling for it."""
        self._events.close()
        self._response.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncEventStream(AsyncIterator[StreamEvent]):
    """Events of one streamed request, the last a `StreamDone`. Closing or dropping it early makes the server stop.

    Iterating raises APIConnectionError (or APITimeoutError) where the stream breaks off, InvalidResponseError for an
    event that does not fit the contract, and ClientStateError in another event loop. Several tasks may share it.
    """

    _closing: ClassVar[set[asyncio.Task[None]]] = set()

    def __init__(self, response: httpx.Response) -> None:
        self._response = response
        self._events = _aread(response)
        self._loop, self._turn = asyncio.get_running_loop(), asyncio.Lock()

    async def __anext__(self) -> StreamEvent:
        if asyncio.get_running_loop() is not self._loop:
            raise ClientStateError(_ELSEWHERE)
        async with self._turn:
            return await anext(self._events)

    def __del__(self) -> None:
        # Of one that never began, the generator has no end that would close the response.
        with contextlib.suppress(RuntimeError):  # the loop has ended, and its connections with it
            if not self._response.is_closed:
                self._loop.call_soon_threadsafe(self._close_later, self._response)

    @classmethod
    def _close_later(cls, response: httpx.Response) -> None:
        task = asyncio.get_running_loop().create_task(response.aclose())
        cls._closing.add(task)  # a loop alone does not keep its tasks
        task.add_done_callback(cls._closing.discard)

    async def aclose(self) -> None:
        """End the request; the server stops sampling for it."""
        await self._events.aclose()
        await self._response.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


# These know the response and not the stream: so a dropped stream is freed at once, its response closed.
def _read(response: httpx.Response) -> Generator[StreamEvent, None, None]:
    parser = EventParser()
    try:
        for chunk in response.iter_bytes():
            for event in parser.feed(chunk):
                yield event
                if isinstance(event, StreamDone):
                    return
    except httpx.RequestError as error:
        raise transport_error(error, _WHERE) from error
    finally:
        response.close()
    raise APIConnectionError(_TRUNCATED)


async def _aread(response: httpx.Response) -> AsyncGenerator[StreamEvent, None]:
    parser = EventParser()
    try:
        async for chunk in response.aiter_bytes():
            for event in parser.feed(chunk):
                yield event
                if isinstance(event, StreamDone):
                    return
    except httpx.RequestError as error:
        raise transport_error(error, _WHERE) from error
    finally:
        await response.aclose()
    raise APIConnectionError(_TRUNCATED)
