"""What threads do in their own way. `tasks` has the same names for tasks of an event loop.

All else of the synchronous client is made from the asynchronous one, by tests/unasync.py.
"""

import contextlib
import os
import queue
import threading
from collections.abc import Callable
from typing import TypeVar

import httpx

from nla_client.errors import ClientStateError
from nla_client.sending.tasks import ELSEWHERE

T = TypeVar("T")
Lock = threading.Lock


class Stop:
    """Tells the requests of one call that nobody wants their answers any more."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def is_set(self) -> bool:
        """Whether it was told."""
        return self._event.is_set()

    def set(self) -> None:
        """Tell it."""
        self._event.set()

    def sleep(self, delay: float) -> bool:
        """Wait for so many seconds, or less where it is told; whether it was."""
        return self._event.wait(delay)


class Places:
    """So many places, for any number of threads."""

    def __init__(self, most: int) -> None:
        self._free = threading.Semaphore(most)

    def take(self) -> Callable[[], None]:
        """Wait for a place; what is returned gives it back."""
        self._free.acquire()
        return self._free.release


class Home:
    """Where a client may be used: everywhere."""

    def check(self) -> None:
        """Refuse nothing."""


class Opened:
    """Where a stream was opened: in this process."""

    def __init__(self) -> None:
        self._process = os.getpid()

    def check(self) -> None:
        """Refuse to be anywhere else."""
        if os.getpid() != self._process:
            raise ClientStateError(ELSEWHERE)

    def drop(self, response: httpx.Response) -> None:
        """Close what nobody reads any more; it never fails."""
        if os.getpid() == self._process:
            with contextlib.suppress(Exception):  # at the interpreter's end little is left to close it with
                response.close()


def overlap(count: int, most: int, work: Callable[[int, Stop], list[T]]) -> list[T]:
    """Do work 0 to `count`, at most so many at once; results in order. The first failure stops the rest."""
    turns, stop = queue.SimpleQueue[int](), Stop()
    done = queue.SimpleQueue[tuple[int, list[T] | BaseException]]()
    for k in range(count):
        turns.put(k)

    def do() -> None:
        with contextlib.suppress(queue.Empty):
            while not stop.is_set():
                k = turns.get_nowait()
                try:
                    done.put((k, work(k, stop)))
                except BaseException as error:
                    done.put((k, error))  # before the others wake, so that the first failure is the one raised
                    stop.set()

    # Daemons: after a failure or Ctrl-C those in flight end by themselves, unheard, and keep no process alive.
    for _ in range(min(most, count)):
        threading.Thread(target=do, name="nla-client", daemon=True).start()
    try:
        results: dict[int, list[T]] = {}
        while len(results) < count:
            k, outcome = done.get()
            if isinstance(outcome, BaseException):
                raise outcome
            results[k] = outcome
    finally:
        stop.set()
    return [result for k in range(count) for result in results[k]]
