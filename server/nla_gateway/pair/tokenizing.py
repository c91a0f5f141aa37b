"""Threads on which a tokenizer reads requests' texts, and whose turn it is there.

Knows turns; knows nothing of tokenizers, but that threads may share one of `load_tokenizer`.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from nla_gateway.engines.calls import parts_of
from nla_gateway.engines.concurrency import Owner, Turns

S = TypeVar("S")
T = TypeVar("T")

THREADS: Final = 2
"""Of which large requests hold one while small ones come in: a short text need not wait for a long one."""


class Tokenizing:
    """A tokenizer's threads, which callers get as they get places at engines."""

    def __init__(self) -> None:
        self._turns = Turns(THREADS, shared=1)
        self._threads = ThreadPoolExecutor(THREADS, "tokenizer")

    async def read(
        self, owner: Owner, read: Callable[[S], T], texts: Sequence[S], lengths: Sequence[int]
    ) -> AsyncGenerator[T, None]:
        """Read a request's texts in order, off the event loop, a part of them a turn.

        Args:
            owner: the request.
            read: reads one of them; what it raises ends the reading.
            texts: any number.
            lengths: of each, in characters or tokens; a long one is a part by itself.
        """
        for part in parts_of(lengths):
            async with self._turns.turn(owner):
                found = await asyncio.get_running_loop().run_in_executor(self._threads, list, map(read, texts[part]))
            for one in found:
                yield one
