"""How many requests are under way at once: no more than fit, and none is lost."""

import asyncio
import gc
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from nla_client import AsyncNLAClient, NLAClient
from nla_client.sending import idle
from tests.client.conftest import INFO
from tests.client.listening import Listening, listening
from tests.plain import wait_for

ROOT = Path(__file__).parents[2]
MANY = """
import asyncio, resource, sys
from nla_client import AsyncNLAClient, AsyncNLACritic

resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))

async def ask():
    async with AsyncNLAClient(sys.argv[1], max_retries=0) as nla, AsyncNLACritic(sys.argv[1], max_retries=0) as critic:
        calls = [client.info() for client in (nla, critic) for _ in range(2000)]
        return await asyncio.gather(*calls, return_exceptions=True)

lost = [told for told in asyncio.run(ask()) if isinstance(told, BaseException)]
sys.exit(f"{len(lost)} lost, such as {lost[0]!r}" if lost else 0)
"""


def test_two_thousand_gathered_calls_lose_none() -> None:
    with listening() as server:
        server.seconds = 0.02
        command = [sys.executable, "-c", MANY, server.url]
        done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert server.most <= 2 * 128


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_connections_are_bounded_over_all_calls(kind: str) -> None:
    with listening() as server:
        server.seconds = 0.02
        ask_sync(server) if kind == "sync" else asyncio.run(ask_async(server))
        assert server.most == len(server.connections) == 3


def ask_sync(server: Listening) -> None:
    with NLAClient(server.url, max_connections=3, max_retries=0) as nla, ThreadPoolExecutor(30) as pool:
        assert len(list(pool.map(lambda _: nla.info(), range(60)))) == 60


async def ask_async(server: Listening) -> None:
    async with AsyncNLAClient(server.url, max_connections=3, max_retries=0) as nla:
        assert len(await asyncio.gather(*(nla.info() for _ in range(60)))) == 60


def test_failures_and_cancelled_calls_give_their_places_back() -> None:
    calls = 0

    async def answer(_request: Any) -> httpx.Response:
        nonlocal calls
        calls += 1
        if calls % 3 == 0:
            raise httpx.ConnectError("refused")
        if calls % 3 == 1:
            await asyncio.sleep(600)
        return httpx.Response(200, json=INFO)

    async def ask() -> None:
        nla = AsyncNLAClient("http://nla", max_connections=2, max_retries=0, transport=httpx.MockTransport(answer))
        for _ in range(20):
            tasks = [asyncio.create_task(nla.info()) for _ in range(3)]
            await asyncio.sleep(0)
            await asyncio.sleep(0.001)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        nonlocal calls
        calls = 1
        async with asyncio.timeout(60):
            assert (await nla.info()).layer == 1

    asyncio.run(ask())


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_idle_connections_are_used_again_and_in_the_end_closed(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idle, "time", clock := Clock())
    with listening() as server:
        server.wanted = 10
        many_then_few_sync(server, clock) if kind == "sync" else asyncio.run(many_then_few_async(server, clock))


class Clock:
    """Goes on by a second a call, so that no stall makes a connection idle for long."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


def many_then_few_sync(server: Listening, clock: Clock) -> None:
    with NLAClient(server.url, max_retries=0) as nla, ThreadPoolExecutor(10) as pool:
        list(pool.map(lambda _: nla.info(), range(10)))
        assert (server.most, len(server.connections)) == (10, 10)
        for _ in range(int(idle.IDLE_S) + 2):
            clock.now += 1
            nla.info()
        wait_for(lambda: server.open == 1)  # the others were idle for too long
        assert len(server.connections) == 10
    wait_for(lambda: server.open == 0)


async def many_then_few_async(server: Listening, clock: Clock) -> None:
    async with AsyncNLAClient(server.url, max_retries=0) as nla:
        await asyncio.gather(*(nla.info() for _ in range(10)))
        assert (server.most, len(server.connections)) == (10, 10)
        for _ in range(int(idle.IDLE_S) + 2):
            clock.now += 1
            await nla.info()
        await asyncio.to_thread(wait_for, lambda: server.open == 1)
        assert len(server.connections) == 10
    await asyncio.to_thread(wait_for, lambda: server.open == 0)


@pytest.mark.parametrize("started", [False, True])
def test_dropped_streams_give_their_places_and_connections_back(started: bool) -> None:
    with listening() as server, NLAClient(server.url, max_connections=2) as nla:
        for _ in range(5):
            stream = nla.verbalize([1.0], stream=True)
            assert not started or next(stream)
            del stream
            gc.collect()
        wait_for(lambda: server.gone >= 5)


@pytest.mark.parametrize("started", [False, True])
def test_dropped_asynchronous_streams_do_so_too(started: bool) -> None:
    async def drop(server: Listening) -> None:
        async with AsyncNLAClient(server.url, max_connections=2) as nla:
            for _ in range(5):
                async with asyncio.timeout(60):
                    stream = await nla.verbalize([1.0], stream=True)
                    assert not started or await anext(stream)
                    del stream
            await asyncio.to_thread(wait_for, lambda: server.gone >= 5)

    with listening() as server:
        asyncio.run(drop(server))
