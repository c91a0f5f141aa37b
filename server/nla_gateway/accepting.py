"""Connections, shared out evenly among gateways that listen on one socket.

Left to itself, the system gives a connection to whichever gateway is first, and there it stays. So each tells the
others how many it has, in memory that all of them see, and one that has more than another lets that go first.
"""

import asyncio
import logging
import mmap
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from ssl import SSLContext
from typing import Final

logger = logging.getLogger(__name__)

GO_FIRST_S: Final = 0.02
"""What gateways with fewer connections are given to take one: they may be busy, or gone."""
LOOK_AGAIN_S: Final = 0.001
TRY_AGAIN_S: Final = 1.0
"""After what the system refuses, such as a file too many."""
TAKES_NONE: Final = 2**62
"""What a gateway tells that takes no connections: not yet, or no more."""


class Shares:
    """How many connections each gateway has.

    Args:
        descriptor: of memory that all gateways share, 8 bytes for each.
        number: which of them this is, from 0.
    """

    def __init__(self, descriptor: int, number: int) -> None:
        self._counts = memoryview(mmap.mmap(descriptor, 0)).cast("q")
        self._number = number
        self.tell(TAKES_NONE)

    def tell(self, connections: int) -> None:
        """Tell all how many this one has."""
        self._counts[self._number] = connections

    def with_fewer(self) -> dict[int, int]:
        """Tell which others have fewer, and how many."""
        mine = self._counts[self._number]
        return {number: count for number, count in enumerate(self._counts) if count < mine}


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
        self._in_vain: dict[int, int] = {}
        """Gateways that were waited for and took nothing, with their counts: once these change, they are back."""

    def start(self) -> None:
        """Begin to take connections."""
        self._listener.setblocking(False)
        self._accepting = asyncio.create_task(self._accept())
        self.tell()

    async def stop(self) -> None:
        """Take no more. Those that only come in are waited for, but not as long as a handshake may take."""
        accepting, self._accepting = self._accepting, None
        self._shares.tell(TAKES_NONE)
        if accepting is None:
            return
        accepting.cancel()
        for task in self._coming if self._ssl else ():
            task.cancel()
        await asyncio.gather(accepting, *self._coming, return_exceptions=True)

    def tell(self) -> None:
        """Tell the other gateways how many this one has now."""
        if self._accepting is not None:
            self._shares.tell(self._count() + len(self._coming))

    async def _accept(self) -> None:
        while True:
            try:
                await _readable(self._listener)
                idle = await self._let_others_go_first()
                connection, _ = self._listener.accept()
            except (BlockingIOError, ConnectionAbortedError):  # another has it, or it is gone again
                continue
            except OSError as error:
                logger.error("cannot take a connection: %s", error)
                await asyncio.sleep(TRY_AGAIN_S)
                continue
            self._in_vain |= idle
            task = asyncio.create_task(self._connect(connection))
            self._coming.add(task)
            task.add_done_callback(self._coming.discard)
            self.tell()

    async def _let_others_go_first(self) -> dict[int, int]:
        """Wait a moment while others have fewer connections; returns those of them that took none meanwhile."""
        self.tell()
        until, first = time.monotonic() + GO_FIRST_S, self._ahead()
        while ahead := self._ahead():
            if time.monotonic() > until:
                return dict(first.items() & ahead.items())
            await asyncio.sleep(LOOK_AGAIN_S)
        return {}

    def _ahead(self) -> dict[int, int]:
        return dict(self._shares.with_fewer().items() - self._in_vain.items())

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
