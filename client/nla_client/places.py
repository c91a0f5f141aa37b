"""Transports of httpx for very many requests at once: a bound on them, and a connection for each that costs no search.

A bound of httpx's own is not the way: to keep within it httpcore may close a connection that another request has just
begun to use (encode/httpcore#1110). Nor is one pool for all of them: httpcore looks at each connection for each of its
connections, several times a request.
"""

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Final, TypeVar
from weakref import WeakKeyDictionary

import httpx

T = TypeVar("T")
IDLE_S: Final = 30.0
"""After so long an idle connection is closed: before the server does it, and later than a retry comes after a 503."""


class BoundedTransport(httpx.BaseTransport):
    """At most so many requests at once, from any number of threads; each keeps its place until its answer is closed."""

    def __init__(self, transport: httpx.BaseTransport, most: int) -> None:
        self._transport = transport
        self._places = threading.Semaphore(most)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Wait for a place, and send."""
        self._places.acquire()
        return _send(self._transport, request, self._places.release)

    def close(self) -> None:
        """Close all connections."""
        self._transport.close()


class AsyncBoundedTransport(httpx.AsyncBaseTransport):
    """At most so many requests at once in an event loop; each keeps its place until its answer is closed."""

    def __init__(self, transport: httpx.AsyncBaseTransport, most: int) -> None:
        self._transport, self._most = transport, most
        # A semaphore is of one loop, and a transport of the caller's may serve several.
        self._places = WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore]()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Wait for a place, and send."""
        places = self._places.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(self._most))
        await places.acquire()
        return await _asend(self._transport, request, places.release)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._transport.aclose()


class Connections(httpx.BaseTransport):
    """A transport for each request under way, used again by later ones; `connect` makes one, for one connection."""

    def __init__(self, connect: Callable[[], httpx.BaseTransport]) -> None:
        self._connect = connect
        self._idle = deque[tuple[float, httpx.BaseTransport]]()
        self._busy = set[httpx.BaseTransport]()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send on the connection that was used last, for the longest idle are about to be closed; or on a new one."""
        for stale in _take_stale(self._idle):
            stale.close()
        transport = _take(self._idle) or self._connect()
        self._busy.add(transport)
        return _send(transport, request, lambda: _put(transport, self._idle, self._busy))

    def close(self) -> None:
        """Close all connections."""
        for transport in [*self._busy, *(transport for _, transport in self._idle)]:
            transport.close()


class AsyncConnections(httpx.AsyncBaseTransport):
    """A transport for each request under way, used again by later ones; `connect` makes one, for one connection."""

    def __init__(self, connect: Callable[[], httpx.AsyncBaseTransport]) -> None:
        self._connect = connect
        self._idle = deque[tuple[float, httpx.AsyncBaseTransport]]()
        self._busy = set[httpx.AsyncBaseTransport]()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send on the connection that was used last, for the longest idle are about to be closed; or on a new one."""
        for stale in _take_stale(self._idle):
            await stale.aclose()
        transport = _take(self._idle) or self._connect()
        self._busy.add(transport)
        return await _asend(transport, request, lambda: _put(transport, self._idle, self._busy))

    async def aclose(self) -> None:
        """Close all connections."""
        for transport in [*self._busy, *(transport for _, transport in self._idle)]:
            await transport.aclose()


def _take(idle: deque[tuple[float, T]]) -> T | None:
    with contextlib.suppress(IndexError):
        return idle.pop()[1]
    return None


def _put(transport: T, idle: deque[tuple[float, T]], busy: set[T]) -> None:
    busy.discard(transport)
    idle.append((time.monotonic(), transport))


def _take_stale(idle: deque[tuple[float, T]]) -> Iterator[T]:
    """Those that have been idle for long."""
    with contextlib.suppress(IndexError):  # another thread took it
        while idle and idle[0][0] < time.monotonic() - IDLE_S:
            yield idle.popleft()[1]


def _send(transport: httpx.BaseTransport, request: httpx.Request, done: Callable[[], None]) -> httpx.Response:
    """Send, and call `done` once the answer is closed, or where none comes."""
    try:
        response = transport.handle_request(request)
    except BaseException:
        done()
        raise
    if response.is_closed or not isinstance(response.stream, httpx.SyncByteStream):
        done()  # made whole at once, as by a MockTransport: nobody will close it again
    else:
        response.stream = _Held(response.stream, done)
    return response


async def _asend(
    transport: httpx.AsyncBaseTransport, request: httpx.Request, done: Callable[[], None]
) -> httpx.Response:
    """Send, and call `done` once the answer is closed, or where none comes."""
    try:
        response = await transport.handle_async_request(request)
    except BaseException:
        done()
        raise
    if response.is_closed or not isinstance(response.stream, httpx.AsyncByteStream):
        done()  # made whole at once, as by a MockTransport: nobody will close it again
    else:
        response.stream = _AsyncHeld(response.stream, done)
    return response


class _Held(httpx.SyncByteStream):
    """A body that tells, once, when it is closed."""

    def __init__(self, body: httpx.SyncByteStream, done: Callable[[], None]) -> None:
        self._body, self._done = body, _once(done)

    def __iter__(self) -> Iterator[bytes]:
        yield from self._body

    def close(self) -> None:
        try:
            self._body.close()
        finally:
            self._done()


class _AsyncHeld(httpx.AsyncByteStream):
    """A body that tells, once, when it is closed."""

    def __init__(self, body: httpx.AsyncByteStream, done: Callable[[], None]) -> None:
        self._body, self._done = body, _once(done)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._body:
            yield chunk

    async def aclose(self) -> None:
        try:
            await self._body.aclose()
        finally:
            self._done()


def _once(done: Callable[[], None]) -> Callable[[], None]:
    """A body may be closed several times, from several threads."""
    left = [done]

    def tell() -> None:
        with contextlib.suppress(IndexError):
            left.pop()()

    return tell
