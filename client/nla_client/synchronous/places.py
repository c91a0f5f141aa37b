# Made from asynchronous/places.py by `make unasync`: change that one.
"""Transports of httpx for very many requests at once: a bound on them, and a connection for each that costs no search.

A bound of httpx's own is not the way: to keep within it httpcore may close a connection that another request has just
begun to use (encode/httpcore#1110). Nor is one pool for all of them: httpcore looks at each connection for each of its
connections, several times a request.
"""

from collections.abc import Callable, Iterator
from typing import Self

import httpx

from nla_client.sending.idle import Idle, once
from nla_client.sending.network import LIMITS, Way
from nla_client.sending.threads import Places


class BoundedTransport(httpx.BaseTransport):
    """At most so many requests at once; each keeps its place until its answer is closed."""

    def __init__(self, transport: httpx.BaseTransport, most: int) -> None:
        self._transport = transport
        self._places = Places(most)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Wait for a place, and send."""
        give_back = self._places.take()
        return _send(self._transport, request, give_back)

    def close(self) -> None:
        """Close all connections."""
        self._transport.close()


class Connections(httpx.BaseTransport):
    """A transport for each request under way, used again by later ones; `connect` makes one, for one connection."""

    def __init__(self, connect: Callable[[], httpx.BaseTransport]) -> None:
        self._connect = connect
        self._idle = Idle[httpx.BaseTransport]()

    @classmethod
    def along(cls, way: Way) -> Self:
        """Go a way to a server."""
        return cls(lambda: httpx.HTTPTransport(way.tls, trust_env=False, limits=LIMITS, proxy=way.proxy))

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send on an idle connection, or on a new one."""
        for stale in self._idle.stale():
            stale.close()
        transport = self._idle.take(self._connect)
        return _send(transport, request, lambda: self._idle.put(transport))

    def close(self) -> None:
        """Close all connections."""
        for transport in self._idle.all():
            transport.close()


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


class _Held(httpx.SyncByteStream):
    """A body that tells, once, when it is closed."""

    def __init__(self, body: httpx.SyncByteStream, done: Callable[[], None]) -> None:
        self._body, self._done = body, once(done)

    def __iter__(self) -> Iterator[bytes]:
        yield from self._body

    def close(self) -> None:
        try:
            self._body.close()
        finally:
            self._done()
