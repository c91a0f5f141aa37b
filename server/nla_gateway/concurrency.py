"""Doing many things at once, and not too many: fan-out and the bounded queue."""

import asyncio
from collections.abc import Coroutine, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from nla_gateway.errors import Overloaded

T = TypeVar("T")

RETRY_AFTER_S: Final = 2


async def gather(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Run all at the same time and return the results in order; the first failure cancels the rest."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(coroutine) for coroutine in work]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]


class Admission:
    """Counts what is accepted and not yet answered, and refuses what would pass the limit."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.count = 0

    @contextmanager
    def admit(self, items: int) -> Iterator[None]:
        """Hold places for `items` samples or texts.

        Raises:
            Overloaded: the queue is full. A lone request is taken whatever its size, or it could never be.
        """
        if self.count and self.count + items > self.limit:
            message = f"{self.count} samples and texts are waiting already; at most {self.limit} may"
            raise Overloaded(message, retry_after_s=RETRY_AFTER_S)
        self.count += items
        try:
            yield
        finally:
            self.count -= items
