"""Connections, shared out evenly among gateways that listen on one socket.

Left to itself, the system gives a connection to whichever gateway is first, and there it stays: of 256 that came at
once one of four gateways had 122, another 34. So each tells the others how many it has, in memory that all of them see,
and one that has more than another lets that go first.
"""

import asyncio
import logging
import mmap
import socket
from collections.abc import Callable
from contextlib import suppress
from ssl import SSLContext
from typing import Final

logger = logging.getLogger(__name__)

GO_FIRST_S: Final = 0.02
"""What a gateway with fewer connections is given to take one: it may be busy, or gone."""
TRY_AGAIN_S: Final = 1.0
"""After what the system refuses, such as a file too many."""


class Shares:
    """How many connections each gateway has.

    Args:
        descriptor: of memory that all gateways share, 8 bytes for each.
        number: which of them this is, from 0.
    """

    def __init__(self, descriptor: int, number: int) -> None:
        self._counts = memoryview(mmap.mmap(descriptor, 0)).cast("q")
        self._number = number
        self.tell(0)  # the one before it may have been killed

    def tell(self, connections: int) -> None:
        """Tell all how many this one has."""
        self._counts[self._number] = connections

    def is_least(self) -> bool:
        """Whether none has fewer."""
        return self._counts[self._number] == min(self._counts)


class Acceptor:
    """Takes connections from a listening socket that other gateways take some from, too.

    Args:
        listener: the socket.
        shares: who has how many.
        count: how many this gateway has, but for those that only come in.
        protocol: makes the protocol of one.
        ssl: for https.
    """

    def __init__(
        self,
        listener: socket.socket,
        shares: Shares,
        count: Callable[[], int],
        protocol: Callable[[], asyncio.Protocol],
        ssl: SSLContext | None = None,
    ) -> None:
        self._listener, self._shares, self._count, self._protocol, self._ssl = listener, shares, count, protocol, ssl
        self._coming = set[asyncio.Task[None]]()
        self._accepting: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to take connections."""
        self._listener.setblocking(False)
        self._accepting = asyncio.create_task(self._accept())

    def stop(self) -> None:
        """Take no more; those that only come in are closed."""
        for task in (self._accepting, *self._coming):
            if task is not None:
                task.cancel()

    def tell(self) -> None:
        """Tell the other gateways how many this one has now."""
        self._shares.tell(self._count() + len(self._coming))

    async def _accept(self) -> None:
        while True:
            await _readable(self._listener)
            self.tell()
            if not self._shares.is_least():
                await asyncio.sleep(GO_FIRST_S)
            try:
                connection, _ = self._listener.accept()
            except (BlockingIOError, ConnectionAbortedError):  # another has it, or it is gone again
                continue
            except OSError as error:
                logger.error("cannot take a connection: %s", error)
                await asyncio.sleep(TRY_AGAIN_S)
                continue
            task = asyncio.create_task(self._connect(connection))
            self._coming.add(task)
            task.add_done_callback(self._coming.discard)
            self.tell()

    async def _connect(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        connection.setblocking(False)
        with suppress(OSError):  # it is gone, or speaks no TLS
            await loop.connect_accepted_socket(self._protocol, connection, ssl=self._ssl)


async def _readable(listener: socket.socket) -> None:
    """Wait until a connection is there to be taken."""
    loop, there = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(listener, there.set)
    try:
        await there.wait()
    finally:
        loop.remove_reader(listener)
