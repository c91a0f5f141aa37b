"""What was spent of allowances a minute, in memory that all gateways of one nla-serve share."""

import fcntl
import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

ENTRY: Final = 8
"""Bytes."""


class Ledger:
    """Entries, each a whole number; a gateway that changes one holds it meanwhile.

    Args:
        entries: how many.
        memory: file descriptor of the memory, `ENTRY` bytes for each, zeros at first; None: there is one gateway.
    """

    def __init__(self, entries: int, memory: int | None = None) -> None:
        size = max(ENTRY, ENTRY * entries)
        self._memory = memory
        self._entries = memoryview(bytearray(size) if memory is None else mmap.mmap(memory, size)).cast("q")

    def __getitem__(self, number: int) -> int:
        """Read an entry."""
        return self._entries[number]

    def __setitem__(self, number: int, value: int) -> None:
        """Write one."""
        self._entries[number] = value

    @contextmanager
    def held(self, number: int) -> Iterator[None]:
        """Keep other gateways from an entry; the kernel lets go of it where this one is killed."""
        if self._memory is None:
            yield
            return
        fcntl.lockf(self._memory, fcntl.LOCK_EX, ENTRY, ENTRY * number)
        try:
            yield
        finally:
            fcntl.lockf(self._memory, fcntl.LOCK_UN, ENTRY, ENTRY * number)
