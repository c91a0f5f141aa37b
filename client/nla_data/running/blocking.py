"""Work that blocks, in a thread of its own, so that Ctrl-C and SIGTERM need not wait for it."""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from queue import SimpleQueue
from typing import Any, Final, Self, TypeVar

T = TypeVar("T")
GRACE_S: Final = 2.0
"""How long work that was stopped may take to see that; what hangs in a system's call is left to itself."""
WRITE_GRACE_S: Final = 5.0
"""The same of an output: so long may what is done take to be written, and the output to be let go."""
THREAD: Final = "nla-blocking"


class Worker:
    """A thread that does what it is given, one after the other. An async context manager.

    Where the task that waits for it is cancelled, or was before, it waits for no longer than `grace` in all, and the
    work is left to itself. What was given later is not begun before, so that none overtakes what still hangs.

    Args:
        stopped: Is set where its work is not wanted any more; the work looks at it again and again.
        grace: Seconds.
    """

    def __init__(self, stopped: threading.Event | None = None, grace: float = GRACE_S) -> None:
        self.stopped = stopped or threading.Event()
        self._grace = grace
        self._until: float | None = None
        self._is_left = self._is_hurried = False
        self._given: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=THREAD, daemon=True)

    async def __aenter__(self) -> Self:
        self._thread.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._given.put(None)
        if not self._is_left:
            self._thread.join()

    async def do(self, work: Callable[[], T]) -> T:
        """Do work after all that was given before, and wait for its result."""
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        done.add_done_callback(asyncio.Future.exception)  # which may be of no interest any more
        self._given.put(partial(_do, work, done))
        try:
            await asyncio.wait({done}, timeout=self._grace_left() if self._is_stopping() else None)
        except asyncio.CancelledError:
            self.stopped.set()
            await asyncio.wait({done}, timeout=self._grace_left())
            raise
        finally:
            self._is_left = not done.done()
        if self._is_left:
            raise asyncio.CancelledError
        return done.result()

    def hurry(self) -> None:
        """Wait no longer from now on than after a cancellation."""
        self._is_hurried = True

    def _is_stopping(self) -> bool:
        task = asyncio.current_task()
        return self._is_hurried or bool(task and task.cancelling())

    def _grace_left(self) -> float:
        now = time.monotonic()
        self._until = self._until or now + self._grace
        return max(0.0, self._until - now)

    def _work(self) -> None:
        while (given := self._given.get()) is not None:
            given()
            del given  # and with it the result, while it waits for the next


def _do(work: Callable[[], T], done: "asyncio.Future[T]") -> None:
    def tell(result: T | None, error: BaseException | None) -> None:
        if not done.done():
            done.set_exception(error) if error else done.set_result(result)  # type: ignore[arg-type]

    result, failure = None, None
    try:
        result = work()
    except BaseException as error:
        failure = error
    with contextlib.suppress(RuntimeError):  # the loop has ended
        done.get_loop().call_soon_threadsafe(tell, result, failure)


async def to_end(work: Callable[[threading.Event], T], stopped: threading.Event | None = None) -> T:
    """Do one work in a thread of its own; it is given the event that says whether it is still wanted."""
    async with Worker(stopped) as worker:
        return await worker.do(partial(work, worker.stopped))


@contextlib.asynccontextmanager
async def held(lock: Callable[[Callable[[], bool]], AbstractContextManager[Any]]) -> AsyncIterator[Worker]:
    """Enter what may block for long before it is entered; what it gets tells whether that is still wanted.

    Gives the worker for what needs it, which leaves it after all that: what hangs keeps it, until the process ends.
    """
    stack = ExitStack()
    async with Worker(grace=WRITE_GRACE_S) as worker:
        try:
            await worker.do(lambda: stack.enter_context(lock(worker.stopped.is_set)))
            yield worker
        except KeyboardInterrupt:  # which Ray's work ends with, and nothing is cancelled
            worker.hurry()
            raise
        finally:
            await worker.do(stack.close)


def is_left() -> bool:
    """Whether work hangs in a system's call, which would keep the process from its end."""
    return any(thread.name == THREAD for thread in threading.enumerate())
