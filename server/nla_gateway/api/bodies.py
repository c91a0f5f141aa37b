"""What callers may send: how large, how much at the same time, and how slowly."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.exceptions import HTTPException
from starlette.types import Message, Receive

from nla_gateway.callers import Caller
from nla_gateway.engines.concurrency import RETRY_AFTER_S, Room
from nla_gateway.errors import Overloaded, PayloadTooLarge, RequestError, RequestTimeout
from nla_gateway.limits import GatewayLimits


class Bodies:
    """Counts the bytes of the bodies that are being worked on, by callers, and refuses what would pass a limit.

    An exchange holds its body to its end, since what is made of it, vectors above all, is as large again.
    """

    def __init__(self, limits: GatewayLimits) -> None:
        self._limits = limits
        self._room = Room(limits.max_held_bytes)

    def refusal(self, size: int, caller: Caller) -> RequestError | None:
        """Tell what is wrong with a caller's body of that many bytes, before any of them is read."""
        return self._too_large(size) or self._no_room(size, caller)

    @contextmanager
    def receiving(self, receive: Receive, caller: Caller) -> Iterator[Receive]:
        """Watch over the `receive` of a caller's exchange."""
        held, more = 0, True
        clock = asyncio.get_running_loop().time
        deadline = clock() + self._limits.request_timeout_s

        async def watched() -> Message:
            nonlocal held, more
            if not more:
                return await receive()  # waits for the caller to leave
            try:
                async with asyncio.timeout_at(min(deadline, clock() + self._limits.stall_timeout_s)):
                    message = await receive()
            except TimeoutError:
                raise _for_fastapi(RequestTimeout("the body did not come in time"), connection="close") from None
            size, more = len(message.get("body", b"")), message.get("more_body", False)
            if problem := self._too_large(held + size) or self._no_room(size, caller):
                raise _for_fastapi(problem)
            held += size
            self._room.hold(caller, size)
            return message

        try:
            yield watched
        finally:
            self._room.hold(caller, -held)

    def _too_large(self, size: int) -> RequestError | None:
        limit = self._limits.max_body_bytes
        message = f"the body is over {limit} bytes: send fewer vectors at a time"
        return PayloadTooLarge(message) if size > limit else None

    def _no_room(self, size: int, caller: Caller) -> RequestError | None:
        if self._room.has(caller, size):
            return None
        message = f"the requests being worked on hold {self._room.held} bytes; at most {self._room.limit} may"
        return Overloaded(message, retry_after_s=RETRY_AFTER_S)


def _for_fastapi(error: RequestError, **headers: str) -> HTTPException:
    """What else is raised while FastAPI reads a body, it takes for the caller's mistake."""
    if error.retry_after_s is not None:
        headers["retry-after"] = str(error.retry_after_s)
    return HTTPException(error.status, error.message, headers)
