"""Events on their way to a reader, however slow: nothing that makes them waits for him."""

import asyncio
from typing import Final

from nla_client.wire import SampleDelta, SampleDone, SampleError

Place = tuple[int, int]
"""Index of the vector, number of the sample."""


class Outbox:
    """Keeps what was not yet read: at most one delta of each sample, in which all its unread pieces are joined.

    So memory stays within the texts themselves, and a sample holds its place at the engine no longer than it takes.
    """

    def __init__(self) -> None:
        self._events: Final[asyncio.Queue[SampleDone | SampleError | Place]] = asyncio.Queue()
        self._pieces: Final[dict[Place, list[str]]] = {}

    def add(self, place: Place, text: str) -> None:
        """Add a piece of a sample's text."""
        if place not in self._pieces:
            self._pieces[place] = []
            self._events.put_nowait(place)
        self._pieces[place].append(text)

    def end(self, event: SampleDone | SampleError) -> None:
        """Add what ends a sample."""
        self._events.put_nowait(event)

    async def get(self) -> SampleDelta | SampleDone | SampleError:
        """Wait for the next event."""
        event = await self._events.get()
        if not isinstance(event, tuple):
            return event
        index, sample = event
        return SampleDelta(index=index, sample=sample, text="".join(self._pieces.pop(event)))
