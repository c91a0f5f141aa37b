"""Sending calls: retries, batches with several requests in flight, streams.

It knows httpx and nothing of the endpoints. Sync and async differ only by `await`, threads and tasks, and in that an
async client belongs to one event loop.
"""

import asyncio
import contextlib
import os
import queue
import threading
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import httpx

from nla_client.calls import Batch, Call
from nla_client.errors import ClientStateError, PayloadTooLargeError
from nla_client.network import Way
from nla_client.places import AsyncBoundedTransport, BoundedTransport
from nla_client.settings import Settings
from nla_client.stream import AsyncEventStream, EventStream

T = TypeVar("T")

CLOSED: Final = "the client is closed: make another"
OTHER_PROCESS: Final = "a client with a transport of its own does not cross a fork: make one in each process"
PICKLED: Final = "a client with a transport of its own cannot be pickled: make one in each process"
OTHER_LOOP: Final = (
    "an asynchronous client belongs to the event loop that first used it, and this is another one: make a client in "
    "each (`async with` inside of what asyncio.run is given), or use the synchronous client"
)


class Connection:
    """Sends calls, from any number of threads."""

    def __init__(self, settings: Settings, transport: httpx.BaseTransport | None) -> None:
        self.settings = settings
        # Between attempts: wait for the seconds to pass or the event to be set, and tell which.
        self.sleep: Callable[[threading.Event, float], bool] = threading.Event.wait
        self._given = transport
        self._way = Way() if transport else Way.to(httpx.URL(settings.base_url))
        self._closed = False
        # After a fork the child opens its own: two processes on one connection would read each other's answers.
        self._clients = {os.getpid(): self._open()}

    @property
    def _http(self) -> httpx.Client:
        process = os.getpid()
        return self._clients.get(process) or self._clients.setdefault(process, self._open())

    def _open(self) -> httpx.Client:
        return httpx.Client(
            base_url=self.settings.base_url,
            headers=self.settings.headers(),
            timeout=self.settings.timeouts(),
            transport=BoundedTransport(self._given or self._way.transport(), self.settings.max_connections),
            trust_env=False,
        )

    def _check_usable(self) -> None:
        if self._closed:
            raise ClientStateError(CLOSED)
        if self._given and os.getpid() not in self._clients:
            raise ClientStateError(OTHER_PROCESS)

    def send(self, call: Call[T]) -> T:
        """One request, its answer parsed."""
        return call.parse(self._reply(call, threading.Event()).content)

    def send_all(self, batch: Batch[T]) -> list[T]:
        """All requests of a batch, several at once; results in order. The first failure stops the rest."""
        if batch.size == 1:
            return self._results(batch.build(0), threading.Event())
        turns, stopped = queue.SimpleQueue[int](), threading.Event()
        done = queue.SimpleQueue[tuple[int, list[T] | BaseException]]()
        for k in range(batch.size):
            turns.put(k)

        def work() -> None:
            with contextlib.suppress(queue.Empty):
                while not stopped.is_set():
                    k = turns.get_nowait()
                    try:
                        done.put((k, self._results(batch.build(k), stopped)))
                    except BaseException as error:
                        done.put((k, error))  # before the others wake, so that the first failure is the one raised
                        stopped.set()

        # Daemons: after a failure or Ctrl-C those in flight end by themselves, unheard, and keep no process alive.
        for _ in range(min(self.settings.max_in_flight, batch.size)):
            threading.Thread(target=work, name="nla-client", daemon=True).start()
        try:
            results: dict[int, list[T]] = {}
            while len(results) < batch.size:
                k, outcome = done.get()
                if isinstance(outcome, BaseException):
                    raise outcome
                results[k] = outcome
        finally:
            stopped.set()
        return [result for k in range(batch.size) for result in results[k]]

    def _results(self, call: Call[list[T]], stopped: threading.Event) -> list[T]:
        try:
            return call.parse(self._reply(call, stopped).content)
        except PayloadTooLargeError:
            if call.halves is None or stopped.is_set():
                raise
        return [result for half in call.halves() for result in self._results(half, stopped)]

    def stream(self, call: Call[bytes]) -> EventStream:
        """One request answered by server-sent events."""
        return EventStream(self._reply(call, threading.Event(), stream=True))

    def close(self) -> None:
        """Close all connections of this process."""
        self._closed = True
        self._http.close()

    def __reduce__(self) -> "tuple[type[Connection], tuple[Settings, None]]":
        # In another process it opens its own connections.
        if self._given:
            raise ClientStateError(PICKLED)
        return type(self), (self.settings, None)

    def _reply(self, call: Call[T], stopped: threading.Event, *, stream: bool = False) -> httpx.Response:
        self._check_usable()
        attempt = 0
        while True:
            request = self._http.build_request(call.method, call.path, content=call.body)
            try:
                response = self._http.send(request, stream=stream)
                if response.is_success:
                    return response
                response.read()
                failure = self.settings.failure(call, response)
            except httpx.RequestError as error:
                failure = self.settings.failure(call, error)
            delay = self.settings.delay(call, failure, attempt)
            if delay is None or self.sleep(stopped, delay):
                raise failure
            attempt += 1


class AsyncConnection:
    """Sends calls, within one asyncio event loop."""

    def __init__(self, settings: Settings, transport: httpx.AsyncBaseTransport | None) -> None:
        self.settings = settings
        self.sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
        self._given = transport
        self._way = Way() if transport else Way.to(httpx.URL(settings.base_url))
        self._closed = False
        # After a fork the child opens its own: two processes on one connection would read each other's answers.
        self._clients = {os.getpid(): self._open()}
        self._loops: dict[int, asyncio.AbstractEventLoop] = {}

    @property
    def _http(self) -> httpx.AsyncClient:
        process = os.getpid()
        return self._clients.get(process) or self._clients.setdefault(process, self._open())

    def _open(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=self.settings.base_url,
            headers=self.settings.headers(),
            timeout=self.settings.timeouts(),
            transport=AsyncBoundedTransport(self._given or self._way.async_transport(), self.settings.max_connections),
            trust_env=False,
        )

    def _check_usable(self) -> None:
        if self._closed:
            raise ClientStateError(CLOSED)
        if self._given:  # which may well serve any loop
            if os.getpid() not in self._clients:
                raise ClientStateError(OTHER_PROCESS)
            return
        here = asyncio.get_running_loop()
        if self._loops.setdefault(os.getpid(), here) is not here:
            raise ClientStateError(OTHER_LOOP)

    async def send(self, call: Call[T]) -> T:
        """One request, its answer parsed."""
        return call.parse((await self._reply(call)).content)

    async def send_all(self, batch: Batch[T]) -> list[T]:
        """All requests of a batch, several at once; results in order. The first failure stops the rest."""
        if batch.size == 1:
            return await self._results(batch.build(0))
        free, failures = asyncio.Semaphore(self.settings.max_in_flight), list[BaseException]()

        async def work(k: int) -> list[T]:
            async with free:
                if failures:
                    return []  # nobody asks any more
                try:
                    return await self._results(batch.build(k))
                except BaseException as error:
                    failures.append(error)
                    raise

        tasks = [asyncio.create_task(work(k)) for k in range(batch.size)]
        try:
            return [result for results in await asyncio.gather(*tasks) for result in results]
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _results(self, call: Call[list[T]]) -> list[T]:
        try:
            return call.parse((await self._reply(call)).content)
        except PayloadTooLargeError:
            if call.halves is None:
                raise
        return [result for half in call.halves() for result in await self._results(half)]

    async def stream(self, call: Call[bytes]) -> AsyncEventStream:
        """One request answered by server-sent events."""
        return AsyncEventStream(await self._reply(call, stream=True))

    async def aclose(self) -> None:
        """Close all connections of this process."""
        if not self._closed:
            self._check_usable()
        self._closed = True
        await self._http.aclose()

    def __reduce__(self) -> "tuple[type[AsyncConnection], tuple[Settings, None]]":
        # In another process it opens its own connections.
        if self._given:
            raise ClientStateError(PICKLED)
        return type(self), (self.settings, None)

    async def _reply(self, call: Call[T], *, stream: bool = False) -> httpx.Response:
        self._check_usable()
        attempt = 0
        while True:
            request = self._http.build_request(call.method, call.path, content=call.body)
            try:
                response = await self._http.send(request, stream=stream)
                if response.is_success:
                    return response
                await response.aread()
                failure = self.settings.failure(call, response)
            except httpx.RequestError as error:
                failure = self.settings.failure(call, error)
            delay = self.settings.delay(call, failure, attempt)
            if delay is None:
                raise failure
            await self.sleep(delay)
            attempt += 1
