"""Work that blocks, in a thread of its own, so that Ctrl-C and SIGTERM need not wait for it."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any, Final, TypeVar

T = TypeVar("T")
GRACE_S: Final = 2.0
"""How long work that was stopped may take to see that; what hangs in a system's call is left to itself."""
THREAD: Final = "nla-blocking"


async def to_end(work: Callable[[threading.Event], T], *, wait: bool = False) -> T:
    """Do work in a thread. Where this is cancelled, the event that the work gets is set, and nobody waits for it long.

    Args:
        work: What is to be done; it looks at the event again and again.
        wait: Whether a cancellation waits until it has ended, whatever that takes.
    """
    loop, stopped = asyncio.get_running_loop(), threading.Event()
    done: asyncio.Future[T] = loop.create_future()

    def tell(result: T | None, error: BaseException | None) -> None:
        if not done.done():
            done.set_exception(error) if error else done.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, failure = None, None
        try:
            result = work(stopped)
        except BaseException as error:
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(tell, result, failure)

    threading.Thread(target=run, name=THREAD, daemon=True).start()
    try:
        return await asyncio.shield(done)
    except asyncio.CancelledError:
        stopped.set()
        await asyncio.wait({done}, timeout=None if wait else GRACE_S)
        if done.done():
            done.exception()  # is no longer of interest
        raise


@contextlib.asynccontextmanager
async def held(lock: Callable[[Callable[[], bool]], AbstractContextManager[Any]]) -> AsyncIterator[None]:
    """Enter what may block for long before it is entered; what it gets tells whether that is still wanted."""
    stack = ExitStack()

    def enter(stopped: threading.Event) -> None:
        entered = ExitStack()
        entered.enter_context(lock(stopped.is_set))
        if stopped.is_set():
            entered.close()
        else:
            stack.push(entered)

    await to_end(enter)
    try:
        yield
    finally:
        stack.close()


def is_left() -> bool:
    """Whether work hangs in a system's call, which would keep the process from its end."""
    return any(thread.name == THREAD for thread in threading.enumerate())
