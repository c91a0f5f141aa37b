"""How long requests may take, and how much less once the gateway is to stop."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from nla_gateway.errors import EngineUnavailable, RequestError, RequestTimeout

RETRY_AFTER_S: Final = 10
LAST_S: Final = 1.0
"""Before the end of the grace time, for answers to get through."""


class Deadlines:
    """The time limits of all requests.

    Args:
        limit_s: for each.
        grace_s: for those in flight at a stop.
    """

    def __init__(self, limit_s: float, grace_s: float) -> None:
        self._limit_s, self._grace_s = limit_s, grace_s
        self._running: set[asyncio.Timeout] = set()
        self._end: float | None = None

    @asynccontextmanager
    async def within(self) -> AsyncIterator[None]:
        """Bound what is done in the block.

        Raises:
            RequestTimeout: it took too long.
            EngineUnavailable: it was not done when the gateway stopped.
        """
        try:
            async with asyncio.timeout(self._limit_s) as limit:
                self._running.add(limit)
                self._shorten(limit)
                try:
                    yield
                finally:
                    self._running.discard(limit)
        except TimeoutError:
            raise self._error() from None

    def stop(self) -> None:
        """Have everything end within the grace time."""
        self._end = asyncio.get_running_loop().time() + max(0.0, self._grace_s - LAST_S)
        for limit in self._running:
            self._shorten(limit)

    def _shorten(self, limit: asyncio.Timeout) -> None:
        when = limit.when()
        if self._end is not None and when is not None and when > self._end:
            limit.reschedule(self._end)

    def _error(self) -> RequestError:
        if self._end is not None:
            return EngineUnavailable("this server stops, and was not done: ask again", retry_after_s=RETRY_AFTER_S)
        return RequestTimeout(
            f"not done within {self._limit_s:g} s: send fewer vectors at a time or ask for fewer tokens"
        )
