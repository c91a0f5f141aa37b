"""What tasks of an event loop do in their own way. `threads` has the same names for threads.

All else of the synchronous client is made from the asynchronous one, by tests/unasync.py.
"""

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable
from typing import ClassVar, Final, TypeVar
from weakref import WeakKeyDictionary

import httpx

from nla_client.errors import ClientStateError

T = TypeVar("T")
Lock = asyncio.Lock
OTHER_LOOP: Final = (
    "an asynchronous client belongs to the event loop that first used it, and this is another one: make a client in "
    "each (`async with` inside of what asyncio.run is given), or use the synchronous client"
)
ELSEWHERE: Final = "the stream was opened in another process or event loop: open it where it is read"


class Stop:
    """Tells the requests of one call that nobody wants their answers any more."""

    def __init__(self) -> None:
        self._is_set = False

    def is_set(self) -> bool:
        """Whether it was told."""
        return self._is_set

    def set(self) -> None:
        """Tell it."""
        self._is_set = True

    async def sleep(self, delay: float) -> bool:
        """Wait for so many seconds, or a little less where it is told; whether it was."""
        await asyncio.sleep(delay)  # who is told is cancelled, too
        return self._is_set


class Places:
    """So many places, for the tasks of any event loop; each loop has its own."""

    def __init__(self, most: int) -> None:
        self._most = most
        # A semaphore is of one loop, and a transport of the caller's may serve several.
        self._free = WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore]()

    async def take(self) -> Callable[[], None]:
        """Wait for a place; what is returned gives it back."""
        free = self._free.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(self._most))
        await free.acquire()
        return free.release


class Home:
    """Where a client may be used: in each process in one event loop."""

    def __init__(self) -> None:
        self._loops: dict[int, asyncio.AbstractEventLoop] = {}

    def check(self) -> None:
        """Refuse to be anywhere else."""
        here = asyncio.get_running_loop()
        if self._loops.setdefault(os.getpid(), here) is not here:
            raise ClientStateError(OTHER_LOOP)


class Opened:
    """Where a stream was opened: in this event loop."""

    _closing: ClassVar[set[asyncio.Task[None]]] = set()

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()

    def check(self) -> None:
        """Refuse to be anywhere else."""
        if asyncio.get_running_loop() is not self._loop:
            raise ClientStateError(ELSEWHERE)

    def drop(self, response: httpx.Response) -> None:
        """Close what nobody reads any more, from wherever; it never fails."""
        with contextlib.suppress(RuntimeError):  # the loop has ended, and its connections with it
            if not response.is_closed:
                self._loop.call_soon_threadsafe(self._close_later, response)

    @classmethod
    def _close_later(cls, response: httpx.Response) -> None:
        task = asyncio.get_running_loop().create_task(response.aclose())
        cls._closing.add(task)  # a loop alone does not keep its tasks
        task.add_done_callback(cls._closing.discard)


async def overlap(count: int, most: int, work: Callable[[int, Stop], Awaitable[list[T]]]) -> list[T]:
    """Do work 0 to `count`, at most so many at once; results in order. The first failure stops the rest."""
    free, stop = asyncio.Semaphore(most), Stop()

    async def do(k: int) -> list[T]:
        async with free:
            if stop.is_set():
                return []  # nobody asks any more
            try:
                return await work(k, stop)
            except BaseException:
                stop.set()
                raise

    tasks = [asyncio.create_task(do(k)) for k in range(count)]
    try:
        return [result for results in await asyncio.gather(*tasks) for result in results]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
