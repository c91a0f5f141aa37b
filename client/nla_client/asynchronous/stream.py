"""Calls with stream=True: events as they come."""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from types import TracebackType
from typing import Any, ClassVar, Final, Self, TypeVar

import httpx
from pydantic import BaseModel

from nla_client.errors import APIConnectionError
from nla_client.sending.events import EXPLAINED, VERBALIZED, EventParser
from nla_client.sending.failures import transport_error
from nla_client.sending.tasks import Lock, Opened
from nla_client.wire import ExplainEvent, StreamDone, StreamEvent

E = TypeVar("E")
_WHERE: Final = "reading the stream"
_TRUNCATED: Final = "the stream ended before its `done` event"


class AsyncEvents(AsyncIterator[E]):
    """What the streams share: they differ by the events that they know."""

    _models: ClassVar[Mapping[str, type[BaseModel]]]

    def __init__(self, response: httpx.Response) -> None:
        self._response = response
        self._events = _read(response, EventParser(self._models))
        self._opened, self._turn = Opened(), Lock()

    async def __anext__(self) -> E:
        self._opened.check()
        async with self._turn:
            event: E = await anext(self._events)
            return event

    def __del__(self) -> None:
        # Of one that never began, the generator has no end that would close the response.
        self._opened.drop(self._response)

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


class AsyncEventStream(AsyncEvents[StreamEvent]):
    """Events of one streamed request, the last a `StreamDone`. Closing or dropping it early makes the server stop.

    Iterating raises APIConnectionError (or APITimeoutError) where the stream breaks off, InvalidResponseError for an
    event that does not fit the contract, and ClientStateError in another event loop. Several tasks may share it.
    """

    _models = VERBALIZED


class AsyncExplanationStream(AsyncEvents[ExplainEvent]):
    """Events of one streamed `explain`: first a `TextTokens` for each text, then as of verbalize, with positions.

    Closing or dropping it early makes the server stop. It raises what the stream of `verbalize` does.
    """

    _models = EXPLAINED


# It knows the response and not the stream: so a dropped stream is freed at once, its response closed.
async def _read(response: httpx.Response, parser: EventParser) -> AsyncGenerator[Any]:
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
