"""Gateways that listen on one socket have as many connections each, and one that hangs leaves the others all."""

import asyncio
import os
import socket
import struct
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Self

import pytest

from nla_gateway.accepting import Acceptor, Shares
from nla_launch.run.service import listen

GATEWAYS = 3


class Greeting(asyncio.Protocol):
    """Says whose it is, and is one of its connections until it ends."""

    def __init__(self, number: int, connections: set[asyncio.Protocol]) -> None:
        self._number, self._connections = number, connections

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._connections.add(self)
        transport.write(f"{self._number}\n".encode())

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)


@pytest.fixture
def memory() -> Iterator[int]:
    descriptor = os.memfd_create("connections")
    os.truncate(descriptor, 8 * GATEWAYS)
    yield descriptor
    os.close(descriptor)


class Callers:
    """Connections to some gateways of this process, which listen on one socket.

    Args:
        memory: that the gateways share.
        numbers: theirs.
    """

    def __init__(self, memory: int, *numbers: int) -> None:
        self.listener, self.acceptors = listen("127.0.0.1", 0), dict[int, Acceptor]()
        self._inherited = [self.listener.dup() for _ in numbers]
        for number, listener in zip(numbers, self._inherited, strict=True):
            had = set[asyncio.Protocol]()
            protocol = partial(Greeting, number, had)
            self.acceptors[number] = Acceptor(listener, Shares(memory, number), had.__len__, protocol)
        self.open: list[tuple[int, asyncio.StreamWriter]] = []

    async def __aenter__(self) -> Self:
        for acceptor in self.acceptors.values():
            acceptor.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close(*self.acceptors)
        for acceptor in self.acceptors.values():
            acceptor.stop()
        await asyncio.sleep(0)
        for listener in (self.listener, *self._inherited):
            listener.close()

    async def connect(self, count: int) -> Counter[int]:
        """Open so many at once; returns how many each gateway got."""
        got = await asyncio.gather(*(self._connect() for _ in range(count)))
        self.open += got
        return Counter(number for number, _ in got)

    async def close(self, *numbers: int) -> None:
        """End those to some gateways, which tell of it."""
        for _, writer in (mine := [one for one in self.open if one[0] in numbers]):
            writer.close()
            await writer.wait_closed()
        self.open = [one for one in self.open if one not in mine]
        await asyncio.sleep(0.1)
        for acceptor in self.acceptors.values():
            acceptor.tell()

    async def _connect(self) -> tuple[int, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(*self.listener.getsockname())
        return int(await reader.readline()), writer


def test_each_has_as_many_as_another(memory: int) -> None:
    async def run() -> None:
        async with Callers(memory, 0, 1, 2) as callers:
            assert await callers.connect(60) == {0: 20, 1: 20, 2: 20}

    asyncio.run(run())


def test_what_one_has_lost_it_gets_first(memory: int) -> None:
    async def run() -> None:
        async with Callers(memory, 0, 1, 2) as callers:
            await callers.connect(30)
            await callers.close(1)
            assert await callers.connect(10) == {1: 10}

    asyncio.run(run())


def test_one_that_takes_none_is_not_waited_for(memory: int) -> None:
    """The third has none, and hangs."""

    async def run() -> None:
        async with Callers(memory, 0, 1) as callers:
            counted = await callers.connect(10)
            assert counted.total() == 10
            assert counted.keys() == {0, 1}

    asyncio.run(run())


def test_one_that_is_back_has_none(memory: int) -> None:
    before, other = Shares(memory, 0), Shares(memory, 1)
    before.tell(7)
    other.tell(3)
    assert other.is_least() is False  # the third has none
    assert Shares(memory, 0).is_least()


def test_what_is_gone_before_it_is_taken_ends_nothing(memory: int) -> None:
    async def run() -> None:
        async with Callers(memory, 0) as callers:
            for _ in range(20):
                with socket.create_connection(callers.listener.getsockname()) as gone:
                    gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
            assert await callers.connect(1) == {0: 1}

    asyncio.run(run())
