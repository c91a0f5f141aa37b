"""A thousand callers at once, callers that stall, and all of it while nobody reads the log."""

import asyncio
import fcntl
import json
import os
import socket
import subprocess
import sys
import termios
import threading
import time
from array import array
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any, Final

import aiohttp
import httpx
import numpy as np
import psutil
import pytest
from numpy.typing import NDArray

from nla_gateway.roles import Role
from tests.errors import error_in
from tests.plain import LONG, encode, events_of, queue_of, texts_of, verbalize, wait_for
from tests.stack import Stack, free_port, kill, scheduler_of

STALL_S: Final = 10
MB: Final = 2**20
BODY_LIMIT: Final = 64 * MB
GREEDY: Final = {"dtype": "float32", "temperature": 0}
RANDOM: Final = {"dtype": "float32", **LONG}
Outcome = str | BaseException


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The toy pair, its log a pipe that nobody reads."""
    port, log = free_port(), tmp_path_factory.mktemp("overload") / "log"
    log.touch()
    command = [sys.executable, "-m", "nla_launch", "--preset", "toy", "--port", str(port), "--log-level", "debug"]
    command += ["--stall-timeout", str(STALL_S), "--max-queue", "700"]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env={**os.environ, "NLA_API_KEY": ""})
    stack = Stack(f"http://127.0.0.1:{port}", port, process, log)
    try:
        stack.wait_ready()
        yield stack
        assert stack.stop() == 0  # Ctrl-C, with a log that takes nothing
    finally:
        stack.http.close()
        kill(stack)
        assert process.stderr is not None
        process.stderr.close()


class Load:
    """Many requests of several kinds, each checked for its answer."""

    def __init__(self, http: aiohttp.ClientSession, vectors: NDArray[np.float32], texts: list[str]) -> None:
        self.http, self.vectors, self.texts = http, vectors, texts

    async def one(self, number: int) -> str:
        """Send request `number`; tell how it ended. An answer that is wrong or no answer raises."""
        kind = number % 10
        if kind in (5, 6):
            return await self.reconstruct()
        if kind == 7:
            return await self.stream(number)
        if kind == 8:
            return await self.leave(number)
        if number % 40 == 9:
            return await self.verbalize(number, padding=BODY_LIMIT)
        return await self.verbalize(number, n=8 if kind == 9 else 1)

    async def verbalize(self, number: int, n: int = 1, padding: int = 0) -> str:
        k = number % len(self.vectors)
        body = json.dumps({"vectors": encode(self.vectors[k]), "n": n, **GREEDY}).encode()
        headers = {"content-type": "application/json", "content-length": str(max(len(body), padding))}
        async with self.http.post("/verbalize", data=_padded(body, padding), headers=headers) as reply:
            answer = await reply.read()
        if reply.status != 200:
            return refused(reply, answer)
        samples = json.loads(answer)["results"][0]["samples"]
        assert [sample["text"] for sample in samples] == [self.texts[k]] * n
        return "large answered" if padding else "answered"

    async def reconstruct(self) -> str:
        async with self.http.post("/reconstruct", json={"texts": self.texts[:2]}) as reply:
            answer = await reply.read()
        if reply.status != 200:
            return refused(reply, answer)
        assert len(json.loads(answer)["vectors"]) == 2
        return "answered"

    async def stream(self, number: int) -> str:
        k = number % len(self.vectors)
        body = {"vectors": encode(self.vectors[k]), "stream": True, **GREEDY}
        async with self.http.post("/verbalize", json=body) as reply:
            answer = await reply.read()
        if reply.status != 200:
            return refused(reply, answer)
        events = events_of(answer.decode())
        told = dict(events)
        assert events[-1][0] == "done"
        if "error" in told:
            return str(told["error"]["error"]["type"])
        assert told["sample.done"]["text"] == self.texts[k]
        return "answered"

    async def leave(self, number: int) -> str:
        body = {"vectors": encode(self.vectors[number % len(self.vectors)]), **RANDOM}
        with suppress(TimeoutError):
            async with asyncio.timeout(2):
                async with self.http.post("/verbalize", json=body) as reply:
                    return refused(reply, await reply.read())
        return "left"


async def _padded(body: bytes, size: int) -> AsyncIterator[bytes]:
    yield body
    for start in range(len(body), size, MB):
        yield b" " * min(MB, size - start)


def refused(reply: aiohttp.ClientResponse, answer: bytes) -> str:
    """Check a refusal against the contract, and name it: overload, or what overload does to a request on its way."""
    error = error_in(httpx.Response(reply.status, headers=reply.headers, content=answer))
    if error.type != "timeout":
        assert error.type in ("overloaded", "engine_unavailable"), error
        assert int(reply.headers["retry-after"]) > 0
    return error.type


class Peak:
    """The most memory that a process had in the block, in MB above that at its start."""

    def __init__(self, process: psutil.Process) -> None:
        self.megabytes = 0.0
        self._process, self._over = process, threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> "Peak":
        self._start = self._process.memory_info().rss
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.05):
            self.megabytes = max(self.megabytes, (self._process.memory_info().rss - self._start) / MB)


def test_a_thousand_callers_at_once(stack: Stack, toy_vectors: NDArray[np.float32]) -> None:
    texts = texts_of(verbalize(stack, toy_vectors))

    async def run() -> list[Outcome]:
        connector = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=300)
        async with aiohttp.ClientSession(stack.url, connector=connector, timeout=timeout) as http:
            load = Load(http, toy_vectors, texts)
            return await asyncio.gather(*(load.one(number) for number in range(1000)), return_exceptions=True)

    with Peak(stack.gateway()) as peak:
        outcomes = asyncio.run(run())
    counts = Counter(outcome if isinstance(outcome, str) else repr(outcome)[:200] for outcome in outcomes)
    print(f"a thousand at once: {dict(counts)}; the gateway grew by up to {peak.megabytes:.0f} MB")  # noqa: T201
    assert counts.keys() <= {"answered", "large answered", "left", "overloaded", "engine_unavailable", "timeout"}, (
        counts
    )
    assert counts["answered"] > 100
    assert counts["overloaded"] > 100
    assert counts["large answered"] >= 1
    assert counts["engine_unavailable"] + counts["timeout"] < 50
    assert peak.megabytes < 1200
    wait_for(lambda: queue_of(stack) == 0)
    assert texts_of(verbalize(stack, toy_vectors)) == texts


def posted(body: dict[str, Any]) -> bytes:
    """A whole request to `/verbalize`, as it goes over the wire."""
    content = json.dumps(body).encode()
    head = "POST /verbalize HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(content)}\r\n\r\n".encode() + content


def ask_and_read_nothing(stack: Stack, body: dict[str, Any]) -> socket.socket:
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", stack.port))
    connection.sendall(posted(body))
    return connection


def test_a_reader_that_stalls_holds_nothing_for_long(stack: Stack, toy_vectors: NDArray[np.float32]) -> None:
    """Its samples run at their own pace; then, and where they still run, it is cut off."""
    quick = texts_of(verbalize(stack, toy_vectors[:1]))
    started = time.monotonic()
    body = {"vectors": encode(toy_vectors[0]), "n": 64, "stream": True, **RANDOM}
    with ask_and_read_nothing(stack, body) as stalled:
        wait_for(lambda: queue_of(stack) >= 64)
        assert texts_of(verbalize(stack, toy_vectors[:1])) == quick
        wait_for(lambda: queue_of(stack) == 0)
        waited = time.monotonic() - started
        stalled.settimeout(10)
        read = b""
        with suppress(ConnectionResetError):
            while piece := stalled.recv(65536):
                read += piece
    print(f"the stalled reader's places were free after {waited:.1f} s, of its stream it got {len(read)} bytes")  # noqa: T201
    assert b"event: done" not in read, "all of it fitted into the kernel's buffers: ask for more"


def test_half_a_request_behind_one_in_work_waits_for_it(stack: Stack, toy_vectors: NDArray[np.float32]) -> None:
    """Bytes that nobody takes while another request is in work are no stalled caller."""
    request, scheduler = posted({"vectors": encode(toy_vectors[0]), **GREEDY}), scheduler_of(stack, Role.AV)
    with socket.create_connection(("127.0.0.1", stack.port), timeout=60) as connection:
        scheduler.suspend()
        try:
            connection.sendall(request + b"GET /health HTTP/1.1\r\nhost:")
            time.sleep(STALL_S + 1)
        finally:
            scheduler.resume()
        first = connection.recv(65536)
        connection.sendall(b" localhost\r\nconnection: close\r\n\r\n")
        rest = b""
        while piece := connection.recv(65536):
            rest += piece
    assert first.startswith(b"HTTP/1.1 200 ")
    assert b"HTTP/1.1 200 " in rest


def test_the_log_was_never_read_and_is_full(stack: Stack) -> None:
    """So the tests above ran with a log that takes no more, and so does the stop at the end."""
    assert stack.process.stderr is not None
    unread = array("i", [0])
    fcntl.ioctl(stack.process.stderr, termios.FIONREAD, unread)
    # Of 64 KiB in 16 pages: one that a line does not fit into stays partly empty.
    assert unread[0] > 16 * 3072
