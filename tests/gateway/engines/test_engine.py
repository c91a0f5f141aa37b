"""What becomes of requests to an engine that goes away or falls silent, on real sockets."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from nla_gateway.engines.engine import Engine, EngineLostError
from nla_gateway.settings import EngineSettings

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
CHUNK = b'data: {"text": "a", "meta_info": {"finish_reason": null}}\n\n'
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
PAYLOAD = {"rid": "r."}


@asynccontextmanager
async def engine(handler: Handler, replicas: int = 1) -> AsyncIterator[Engine]:
    ended = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ended.append(end := asyncio.Event())
        try:
            await handler(reader, writer)
            with suppress(ConnectionError):
                await reader.read()
        finally:
            writer.close()
            end.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    settings = EngineSettings(
        urls=(url,), api_key="k", checkpoint=Path(), model="m", dtype="bfloat16", context_length=512,
        max_in_flight=4, shared_in_flight=2, replicas=replicas,
    )  # fmt: skip
    async with server, Engine("verbalizer", url, settings) as client:
        yield client
    await asyncio.gather(*(end.wait() for end in ended))


async def one_chunk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(HEAD + f"{len(CHUNK):x}\r\n".encode() + CHUNK + b"\r\n")


async def stay_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")


async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await one_chunk(reader, writer)
    await writer.drain()
    writer.transport.abort()


async def read_all(client: Engine) -> list[str]:
    return [chunk["text"] async for chunk in client.stream(PAYLOAD)]


@pytest.mark.parametrize("ask", [lambda client: client.generate(PAYLOAD), read_all])
@pytest.mark.parametrize("handler", [stay_silent, one_chunk])
def test_requests_of_a_silent_engine_can_be_given_up(
    handler: Handler, ask: Callable[[Engine], Awaitable[object]]
) -> None:
    async def run() -> None:
        there = asyncio.Event()

        async def handled(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await handler(reader, writer)
            there.set()

        async with engine(handled) as client:
            asking = asyncio.ensure_future(ask(client))
            await asyncio.wait_for(there.wait(), 60)
            await asyncio.sleep(0.2)
            assert not asking.done()
            client.drop_requests()
            await asking

    with pytest.raises(EngineLostError, match="the verbalizer is lost"):
        asyncio.run(run())


def test_a_connection_that_breaks_is_doubted() -> None:
    async def run() -> bool:
        async with engine(hang_up) as client:
            with pytest.raises(EngineLostError, match="the connection to the verbalizer broke"):
                await read_all(client)
            return client.doubted.is_set()

    assert asyncio.run(run())


class Answering:
    """An engine that says yes to each question, but for those on which it is stuck."""

    def __init__(self, stuck_on: str | None = None) -> None:
        self.asked = list[str]()
        self.stuck = asyncio.Event()
        self._stuck_on = stuck_on

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError):
            while True:
                path = (await reader.readuntil(b"\r\n\r\n")).split()[1].decode()
                self.asked.append(path)
                if path == self._stuck_on:
                    self.stuck.set()
                    return
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")


@pytest.mark.parametrize(("replicas", "asked"), [(1, ["/health"]), (3, ["/health"] * 3 + ["/server_info"])])
def test_each_replica_is_asked_for_a_token_and_an_account_of_itself(replicas: int, asked: list[str]) -> None:
    async def run() -> list[str]:
        answering = Answering()
        async with engine(answering, replicas) as client:
            assert await client.makes_progress()
        return sorted(answering.asked)

    assert asyncio.run(run()) == asked


def test_while_one_replica_is_stuck_no_progress_is_made() -> None:
    async def run() -> None:
        answering = Answering(stuck_on="/server_info")
        async with engine(answering, 2) as client:
            asking = asyncio.ensure_future(client.makes_progress())
            await answering.stuck.wait()
            await asyncio.sleep(0.2)
            assert not asking.done()
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking

    asyncio.run(run())
