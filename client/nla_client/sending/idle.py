"""Connections that are not in use, the last used first. From any number of threads, or of tasks."""

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final, Generic, TypeVar

T = TypeVar("T")
IDLE_S: Final = 30.0
"""After so long an idle connection is closed: before the server does it, and later than a retry comes after a 503."""


class Idle(Generic[T]):
    """Those that are idle, and beside them those that are busy."""

    def __init__(self) -> None:
        self._idle = deque[tuple[float, T]]()
        self._busy = set[T]()

    def take(self, connect: Callable[[], T]) -> T:
        """The one that was used last, for the longest idle are about to be closed; or a new one."""
        found: T | None = None
        with contextlib.suppress(IndexError):
            found = self._idle.pop()[1]
        taken = connect() if found is None else found
        self._busy.add(taken)
        return taken

    def put(self, taken: T) -> None:
        """Give one back."""
        self._busy.discard(taken)
        self._idle.append((time.monotonic(), taken))

    def stale(self) -> Iterator[T]:
        """Take out those that have been idle for long."""
        with contextlib.suppress(IndexError):  # another thread took it
            while self._idle and self._idle[0][0] < time.monotonic() - IDLE_S:
                yield self._idle.popleft()[1]

    def all(self) -> list[T]:
        """All, busy ones first."""
        return [*self._busy, *(connection for _, connection in self._idle)]


def once(done: Callable[[], None]) -> Callable[[], None]:
    """Make it do something the first time alone: a body may be closed several times, from several threads."""
    left = [done]

    def tell() -> None:
        with contextlib.suppress(IndexError):
            left.pop()()

    return tell
