"""uvicorn's HTTP protocol with bounds on what comes before a request's body, which uvicorn itself leaves open."""

import asyncio
import uuid
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from nla_client.wire import REQUEST_ID_HEADER, ErrorDetail, ErrorResponse

HEAD_BYTES: Final = 2**16
"""Of a request's first line and headers, give or take what the system hands over at a time."""
PIECE_BYTES: Final = 8192
MOST_PIPELINED: Final = 16
"""Requests of one connection that are parsed ahead, give or take those of a piece; what follows is not yet read."""


class GatewayProtocol(HttpToolsProtocol):
    """One connection. A request's head must be whole within the stall time, and so must the rest of a refused body."""

    stall_s: float

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._due: asyncio.TimerHandle | None = None
        self._head: int | None = None
        self._unparsed = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first request."""
        super().connection_made(transport)
        self._expect(head=0)

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing any more."""
        self._expect_nothing()
        self._unparsed = b""
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take some bytes, and parse what does not run too far ahead."""
        self._unparsed += data
        self._parse()

    def _parse(self) -> None:
        view, start = memoryview(self._unparsed), 0
        while start < len(view) and len(self.pipeline) < MOST_PIPELINED and not self.transport.is_closing():
            self._take(view[start : start + PIECE_BYTES])
            start += PIECE_BYTES
        self._unparsed = bytes(view[start:])
        if self._unparsed:
            self.flow.pause_reading()

    def _take(self, piece: memoryview) -> None:
        """Parse a piece, as long as it is no head without end."""
        before = self._due
        super().data_received(piece)  # type: ignore[arg-type]  # httptools takes any buffer
        if self.transport.is_closing():
            return
        if self._due is None and (self.cycle is None or self.cycle.response_complete):
            self._expect(head=len(piece))  # line ends that begin nothing
        elif self._due is not None and self._due is before and self._head is not None:
            self._head += len(piece)
            if self._head > HEAD_BYTES:
                self.send_400_response(f"the request's headers are over {HEAD_BYTES} bytes")

    def on_message_begin(self) -> None:
        """Wait for the rest of the head."""
        super().on_message_begin()
        self._expect(head=0)

    def on_headers_complete(self) -> None:
        """Leave the body to the app, which has limits of its own."""
        self._expect_nothing()
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        """Wait for the rest of a body that nobody reads: it was refused."""
        super().on_response_complete()
        if self.cycle.response_complete and self.cycle.more_body:
            self._expect(head=None)
        if self._unparsed:
            self.flow.pause_reading()
            self.loop.call_soon(self._parse)

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP request as the contract has it, and hang up."""
        request_id = uuid.uuid4().hex
        detail = ErrorDetail(type="invalid_request", message=msg, param=None, request_id=request_id)
        body = ErrorResponse(error=detail).model_dump_json().encode()
        head = (
            f"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
            f"{REQUEST_ID_HEADER}: {request_id}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()

    def _expect(self, *, head: int | None) -> None:
        self._expect_nothing()
        self._head = head
        self._due = self.loop.call_later(self.stall_s, self._give_up)

    def _give_up(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()
        else:  # half a head that came with the request before it, and whose rest is not read until that is answered
            self._due = self.loop.call_later(self.stall_s, self._give_up)

    def _expect_nothing(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None


def protocol(stall_timeout_s: float) -> type[GatewayProtocol]:
    """Form the protocol with that stall time, as uvicorn wants it: a class."""
    return type("Protocol", (GatewayProtocol,), {"stall_s": stall_timeout_s})
