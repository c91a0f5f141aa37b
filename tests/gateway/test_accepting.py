"""Gateways that listen on one socket have as many connections each, and one that hangs leaves the others all."""

import asyncio
import os
import socket
import struct
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from typing import Self

import pytest
import uvloop

from nla_gateway import accepting
from nla_gateway.accepting import Acceptor, Shares
from nla_launch.run.service import listen
from tests.load import until

GATEWAYS = 3


class Greeting(asyncio.Protocol):
    """Says whose it is, and is one of its connections until it ends."""

    transport: asyncio.Transport

    def __init__(self, number: int, connections: set["Greeting"]) -> None:
        self._number, self._connections = number, connections

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport
        self._connections.add(self)
        transport.write(f"{self._number}\n".encode())

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def runner(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[asyncio.Runner]:
    """With a loop of each kind, and time enough for others to go first however slow the machine is."""
    monkeypatch.setattr(accepting, "GO_FIRST_S", 300.0)
    with asyncio.Runner(loop_factory=request.param) as runner:
        yield runner


@pytest.fixture
def memory() -> Iterator[int]:
    descriptor = os.memfd_create("connections")
    os.truncate(descriptor, 8 * GATEWAYS)
    for number in range(GATEWAYS):
        Shares(descriptor, number)
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
        self.inherited = [self.listener.dup() for _ in numbers]
        self.had = {number: set[Greeting]() for number in numbers}
        for number, listener in zip(numbers, self.inherited, strict=True):
            had = self.had[number]
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
            await acceptor.stop()
        for listener in (self.listener, *self.inherited):
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
        await until(lambda: not any(self.had[number] for number in numbers), 60)
        for acceptor in self.acceptors.values():
            acceptor.tell()

    async def _connect(self) -> tuple[int, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(*self.listener.getsockname())
        return int(await reader.readline()), writer


def test_each_has_as_many_as_another(memory: int, runner: asyncio.Runner) -> None:
    async def run() -> None:
        async with Callers(memory, 0, 1, 2) as callers:
            assert await callers.connect(60) == {0: 20, 1: 20, 2: 20}

    runner.run(run())


def test_what_one_has_lost_it_gets_first(memory: int, runner: asyncio.Runner) -> None:
    async def run() -> None:
        async with Callers(memory, 0, 1, 2) as callers:
            await callers.connect(30)
            await callers.close(1)
            assert await callers.connect(8) == {1: 8}

    runner.run(run())


def test_one_that_is_not_there_is_not_waited_for(memory: int, runner: asyncio.Runner) -> None:
    async def run() -> None:
        async with Callers(memory, 0, 1) as callers:
            assert await callers.connect(10) == {0: 5, 1: 5}

    runner.run(run())


def test_one_that_hangs_is_waited_for_once(
    memory: int, runner: asyncio.Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accepting, "GO_FIRST_S", 0.5)
    third, first_goes, in_vain = Shares(memory, 2), Acceptor._let_others_go_first, list[int]()
    third.tell(0)

    async def counted_first_goes(acceptor: Acceptor) -> dict[int, int]:
        idle = await first_goes(acceptor)
        in_vain.extend(number for number in idle if number == 2)
        return idle

    monkeypatch.setattr(Acceptor, "_let_others_go_first", counted_first_goes)

    async def run() -> None:
        async with Callers(memory, 0, 1) as callers:
            counted = await callers.connect(30)
            assert counted.total() == 30
            assert counted.keys() == {0, 1}
            assert 0 < len(in_vain) < 30 / 2
            third.tell(1)  # it is back
            assert all(2 in acceptor._ahead() for acceptor in callers.acceptors.values())

    runner.run(run())


def test_what_is_gone_before_it_is_taken_ends_nothing(memory: int, runner: asyncio.Runner) -> None:
    async def run() -> None:
        async with Callers(memory, 0) as callers:
            for _ in range(20):
                with socket.create_connection(callers.listener.getsockname()) as gone:
                    gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
            assert await callers.connect(1) == {0: 1}

    runner.run(run())


def test_a_stop_forgets_no_connection(memory: int, runner: asyncio.Runner) -> None:
    """Each that was taken is its protocol's, which uvicorn ends, or it is closed."""

    async def run() -> None:
        for pause in range(8):
            async with Callers(memory, 0) as callers:
                with socket.create_connection(callers.listener.getsockname()) as caller:
                    for _ in range(pause):
                        await asyncio.sleep(0)
                    await callers.acceptors[0].stop()
                    for protocol in set(callers.had[0]):
                        protocol.transport.close()
                    await until(lambda: not callers.had[0], 120)
                    for listener in (callers.listener, *callers.inherited):
                        listener.close()
                    caller.settimeout(120)
                    with suppress(ConnectionResetError):  # it was never taken
                        while await asyncio.to_thread(caller.recv, 100):
                            pass

    runner.run(run())
