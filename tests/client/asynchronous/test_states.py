"""Clients that cross a fork, a process, a thread or an event loop, and clients that are closed."""

import asyncio
import copy
import gc
import multiprocessing
import os
import pickle
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from nla_client import AsyncNLAClient, AsyncNLACritic, ClientStateError, NLAClient, NLACritic, NLAError
from tests.client.conftest import INFO
from tests.client.listening import Listening, listening


@pytest.fixture(autouse=True)
def _what_is_left_behind_in_ended_loops() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        yield
        gc.collect()


@pytest.fixture
def served() -> Iterator[Listening]:
    with listening() as server:
        yield server


def in_a_child(work: Any) -> str:
    """What a forked child says: `ok`, or the error that ended it."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            said = work() or "ok"
        except BaseException as error:
            said = repr(error)
        os.write(writer, said.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as stream:
        said = stream.read()
    os.waitpid(child, 0)
    return said


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
class TestForks:
    def test_a_child_has_connections_of_its_own(self, served: Listening) -> None:
        with NLAClient(served.url, max_retries=0) as nla:
            nla.info()

            def ask() -> None:
                for _ in range(3):
                    nla.info()

            assert [in_a_child(ask) for _ in range(2)] == ["ok"] * 2
            nla.info()
        assert len(served.connections) == 3

    def test_a_fork_while_all_places_are_taken(self, served: Listening) -> None:
        with NLAClient(served.url, max_retries=0, max_connections=1) as nla, ThreadPoolExecutor(4) as pool:
            served.seconds = 0.5
            waiting = [pool.submit(nla.info) for _ in range(4)]
            assert in_a_child(lambda: str(nla.info().layer)) == "1"
            assert all(one.result(60).layer == 1 for one in waiting)

    def test_an_asynchronous_client_too(self, served: Listening) -> None:
        nla = AsyncNLAClient(served.url, max_retries=0)

        async def ask() -> str:
            return str((await nla.info()).layer)

        assert asyncio.run(ask()) == "1"
        assert in_a_child(lambda: asyncio.run(ask())) == "1"
        assert len(served.connections) == 2

    def test_a_stream_is_read_where_it_was_opened(self, served: Listening) -> None:
        with NLAClient(served.url) as nla, nla.verbalize([1.0], stream=True) as stream:
            next(stream)
            assert "ClientStateError" in in_a_child(lambda: next(stream))
            next(stream)

    def test_a_transport_of_the_callers_does_not_cross(self) -> None:
        nla = NLAClient("http://nla", transport=httpx.MockTransport(lambda _: httpx.Response(200, json=INFO)))
        assert "does not cross a fork" in in_a_child(nla.info)
        assert nla.info().layer == 1


def layer_of(client: Any) -> int:
    told: int = client.info().layer
    return told


@pytest.mark.parametrize("start", ["spawn", "forkserver"])
def test_clients_go_to_other_processes(served: Listening, start: str) -> None:
    context = multiprocessing.get_context(start)
    with NLAClient(served.url, api_key="k") as nla, ProcessPoolExecutor(1, context) as pool:
        assert pool.submit(layer_of, nla).result(60) == 1


def test_copies_are_clients_of_their_own(served: Listening) -> None:
    for cls in (NLAClient, NLACritic):
        original = cls(served.url, batch_size=3, timeout=7)
        twin: Any = pickle.loads(pickle.dumps(copy.deepcopy(original)))  # noqa: S301 - our own bytes
        original.close()
        assert twin.info().layer == 1
        assert (twin._batch_size, twin._connection.settings) == (3, original._connection.settings)
        twin.close()
    given = AsyncNLACritic("http://nla", transport=httpx.MockTransport(lambda _: httpx.Response(200)))
    with pytest.raises(ClientStateError, match="cannot be pickled"):
        pickle.dumps(given)


def test_a_second_event_loop_is_told(served: Listening) -> None:
    for cls in (AsyncNLAClient, AsyncNLACritic):
        client = cls(served.url)

        async def ask(client: Any = client) -> int:
            told: int = (await client.info()).layer
            return told

        assert asyncio.run(ask()) == 1
        with pytest.raises(ClientStateError, match="another one: make a client in each"):
            asyncio.run(ask())
        with ThreadPoolExecutor(1) as pool, pytest.raises(NLAError, match="event loop"):
            pool.submit(asyncio.run, ask()).result()


def test_streams_and_batches_tell_it_too(served: Listening) -> None:
    nla = AsyncNLAClient(served.url, batch_size=1)
    asyncio.run(nla.info())
    for call in (lambda: nla.verbalize([1.0], stream=True), lambda: nla.verbalize([[1.0], [2.0]]), nla.ready):
        with pytest.raises(ClientStateError, match="event loop"):
            asyncio.run(call())
    with pytest.raises(ClientStateError, match="event loop"):
        asyncio.run(nla.aclose())


def test_one_loop_in_a_thread_may_serve_all(served: Listening) -> None:
    nla = AsyncNLAClient(served.url)
    loop = asyncio.new_event_loop()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(loop.run_forever)
        told = [asyncio.run_coroutine_threadsafe(nla.info(), loop).result(60).layer for _ in range(3)]
        asyncio.run_coroutine_threadsafe(nla.aclose(), loop).result(60)
        loop.call_soon_threadsafe(loop.stop)
        running.result(60)
    loop.close()
    assert told == [1] * 3


def test_a_closed_client_says_so() -> None:
    nla = NLAClient("http://nla")
    nla.close()
    nla.close()
    with pytest.raises(ClientStateError, match="closed"):
        nla.info()

    async def use_closed() -> None:
        async with AsyncNLAClient("http://nla") as anla:
            pass
        await anla.aclose()
        await anla.info()

    with pytest.raises(ClientStateError, match="closed"):
        asyncio.run(use_closed())
