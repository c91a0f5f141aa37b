"""Transports of httpx for very many requests at once: a bound on them, and a connection for each that costs no search.

A bound of httpx's own is not the way: to keep within it httpcore may close a connection that another request has just
begun to use (encode/httpcore#1110). Nor is one pool for all of them: httpcore looks at each connection for each of its
connections, several times a request.
"""

from collections.abc import AsyncIterator, Callable
from typing import Self

import httpx

from nla_client.sending.idle import Idle, once
from nla_client.sending.network import LIMITS, Way
from nla_client.sending.tasks import Places


class AsyncBoundedTransport(httpx.AsyncBaseTransport):
    """At most so many requests at once; each keeps its place until its answer is closed."""

    def __init__(self, transport: httpx.AsyncBaseTransport, most: int) -> None:
        self._transport = transport
        self._places = Places(most)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Wait for a place, and send."""
        give_back = await self._places.take()
        return await _send(self._transport, request, give_back)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._transport.aclose()


class AsyncConnections(httpx.AsyncBaseTransport):
    """A transport for each request under way, used again by later ones; `connect` makes one, for one connection."""

    def __init__(self, connect: Callable[[], httpx.AsyncBaseTransport]) -> None:
        self._connect = connect
        self._idle = Idle[httpx.AsyncBaseTransport]()

    @classmethod
    def along(cls, way: Way) -> Self:
        """Go a way to a server."""
        return cls(lambda: httpx.AsyncHTTPTransport(way.tls, trust_env=False, limits=LIMITS, proxy=way.proxy))

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send on an idle connection, or on a new one."""
        for stale in self._idle.stale():
            await stale.aclose()
        transport = self._idle.take(self._connect)
        return await _send(transport, request, lambda: self._idle.put(transport))

    async def aclose(self) -> None:
        """Close all connections."""
        for transport in self._idle.all():
            await transport.aclose()


async def _send(
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
        response.stream = _Held(response.stream, done)
    return response


class _Held(httpx.AsyncByteStream):
    """A body that tells, once, when it is closed."""

    def __init__(self, body: httpx.AsyncByteStream, done: Callable[[], None]) -> None:
        self._body, self._done = body, once(done)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._body:
            yield chunk

    async def aclose(self) -> None:
        try:
            await self._body.aclose()
        finally:
            self._done()
