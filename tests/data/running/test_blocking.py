"""Work that blocks: it is done in order, and who is cancelled waits for what hangs only for so long."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Final

import pytest

from nla_data.running import blocking
from nla_data.running.blocking import Worker

WAIT_S: Final = 60.0
SOON_S: Final = 0.5


class Hanging:
    """Work that hangs until it may end."""

    def __init__(self) -> None:
        self.begun, self.may_end = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.begun.set()
        self.may_end.wait()


@pytest.fixture
def hang() -> Iterator[Hanging]:
    hang = Hanging()
    yield hang
    hang.may_end.set()
    for thread in threading.enumerate():
        if thread.name == blocking.THREAD:
            thread.join(WAIT_S)


def stop(work: Coroutine[Any, Any, None], begun: threading.Event) -> None:
    """Cancel it once it has begun."""

    async def stopped() -> None:
        task = asyncio.create_task(work)
        assert await asyncio.to_thread(begun.wait, WAIT_S)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, WAIT_S)

    asyncio.run(stopped())


def test_what_is_given_later_waits_for_what_hangs(hang: Hanging) -> None:
    """So a lock is not given up while something may yet be written."""
    after = threading.Event()

    async def work() -> None:
        async with Worker(grace=SOON_S) as worker:
            try:
                await worker.do(hang)
            finally:
                await worker.do(after.set)

    stop(work(), hang.begun)
    assert blocking.is_left()
    assert not after.is_set()
    hang.may_end.set()
    assert after.wait(WAIT_S)


def test_what_comes_after_a_cancellation_is_done_where_nothing_hangs() -> None:
    begun, after = threading.Event(), threading.Event()

    async def work() -> None:
        async with Worker(grace=WAIT_S) as worker:
            try:
                await worker.do(begun.set)
                await asyncio.sleep(WAIT_S)
            finally:
                await worker.do(after.set)

    stop(work(), begun)
    assert after.is_set()
    assert not blocking.is_left()


def test_what_begins_to_hang_after_a_cancellation_is_left(hang: Hanging) -> None:
    begun = threading.Event()

    async def work() -> None:
        async with Worker(grace=SOON_S) as worker:
            try:
                await worker.do(begun.set)
                await asyncio.sleep(WAIT_S)
            finally:
                await worker.do(hang)

    stop(work(), begun)
    assert blocking.is_left()


def test_another_failure_hurries_nothing(hang: Hanging) -> None:
    """Where a task of a group fails while something is written, what comes after waits for that."""
    after = threading.Event()

    async def fail() -> None:
        assert await asyncio.to_thread(hang.begun.wait, WAIT_S)
        raise ValueError("a gateway")

    async def work(worker: Worker) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(fail())
            await worker.do(hang)

    async def both() -> None:
        async with Worker(grace=0.0) as worker:
            with pytest.raises(ExceptionGroup):
                await work(worker)
            asyncio.get_running_loop().call_later(SOON_S, hang.may_end.set)
            await worker.do(after.set)

    asyncio.run(both())
    assert after.is_set()


def test_a_lock_is_given_up_after_all_that_was_done_with_it() -> None:
    told: list[str] = []

    @contextlib.contextmanager
    def lock(_: Callable[[], bool]) -> Iterator[None]:
        told.append("locked")
        yield
        told.append("given up")

    async def work() -> None:
        async with blocking.held(lock) as worker:
            await worker.do(lambda: told.append("done"))

    asyncio.run(work())
    assert told == ["locked", "done", "given up"]


@pytest.mark.parametrize("how", [KeyboardInterrupt, asyncio.CancelledError])
def test_a_lock_that_cannot_be_given_up(
    hang: Hanging, how: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray's work ends with the first, and nothing is cancelled."""
    monkeypatch.setattr(blocking, "WRITE_GRACE_S", SOON_S)
    begun = threading.Event()

    @contextlib.contextmanager
    def lock(_: Callable[[], bool]) -> Iterator[None]:
        yield
        hang()

    async def work() -> None:
        async with blocking.held(lock):
            begun.set()
            if how is KeyboardInterrupt:
                raise KeyboardInterrupt
            await asyncio.sleep(WAIT_S)

    if how is KeyboardInterrupt:
        with pytest.raises(asyncio.CancelledError):
            asyncio.run(work())
    else:
        stop(work(), begun)
    assert blocking.is_left()
