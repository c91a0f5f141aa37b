"""What callers may send: how large, how much at the same time, and how slowly."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive

from nla_client.wire import ITEM_SIZE, TextRequest, TokenizeRequest
from nla_gateway.callers import Caller
from nla_gateway.engines.concurrency import RETRY_AFTER_S, Room
from nla_gateway.errors import Overloaded, PayloadTooLarge, RequestError, RequestTimeout
from nla_gateway.limits import GatewayLimits
from nla_gateway.pair.reconstructor import Reconstructor
from nla_gateway.pair.source import Source
from nla_gateway.served import ServedPair

ALWAYS_TAKEN: Final = 2**20
"""Bytes of a string that costs little: so long may be what nothing else bounds, such as a message's role."""
ESCAPED: Final = 12
"""Bytes that a character has at most: a pair of `\\uXXXX`."""


def longest_string(call: type[BaseModel], pairs: Sequence[ServedPair]) -> int:
    """Tell how many bytes a string in a call's JSON has at most, if any of the pairs is to take it.

    What counts is what is refused for its length alone, by whatever reads it.
    """
    return max([ALWAYS_TAKEN, *(ESCAPED * _characters(call, pair) for pair in pairs)])


def _characters(call: type[BaseModel], pair: ServedPair) -> int:
    """Of a vector or a text."""
    source, reconstructor = pair.find(Source), pair.find(Reconstructor)
    of_vector = 4 * -(-pair.info.d_model * ITEM_SIZE["float32"] // 3) if "vectors" in call.model_fields else 0
    of_text = 0
    if issubclass(call, TextRequest):
        if source is not None:
            of_text = source.longest_taken_apart if call is TokenizeRequest else source.longest_text
    elif "texts" in call.model_fields and reconstructor is not None:
        of_text = reconstructor.longest_text
    return max(of_vector, of_text)


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
