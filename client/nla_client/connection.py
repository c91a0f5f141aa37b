"""Sending calls: retries, batches with several requests in flight, streams.

It knows httpx and nothing of the endpoints. Sync and async differ only by `await`, threads and tasks.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TypeVar

import httpx

from nla_client.calls import Batch, Call
from nla_client.settings import Settings
from nla_client.stream import AsyncEventStream, EventStream

T = TypeVar("T")


class Connection:
    """Sends calls, from any number of threads."""

    def __init__(self, settings: Settings, transport: httpx.BaseTransport | None) -> None:
        self.settings = settings
        # Between attempts: wait for the seconds to pass or the event to be set, and tell which.
        self.sleep: Callable[[threading.Event, float], bool] = threading.Event.wait
        self._http = httpx.Client(
            base_url=settings.base_url,
            headers=settings.headers(),
            timeout=settings.timeouts(),
            transport=transport,
        )

    def send(self, call: Call[T]) -> T:
        """One request, its answer parsed."""
        return call.parse(self._reply(call, threading.Event()).content)

    def send_all(self, batch: Batch[T]) -> list[T]:
        """All requests of a batch, several at once; results in order. The first failure stops the rest."""
        if batch.size == 1:
            return self.send(batch.build(0))
        stopped, failures = threading.Event(), list[BaseException]()

        def work(k: int) -> list[T]:
            if stopped.is_set():
                return []  # nobody asks any more
            try:
                call = batch.build(k)
                return call.parse(self._reply(call, stopped).content)
            except BaseException as error:
                failures.append(error)
                stopped.set()
                raise

        pool = ThreadPoolExecutor(self.settings.max_in_flight, thread_name_prefix="nla-client")
        try:
            futures = [pool.submit(work, k) for k in range(batch.size)]
            for _ in as_completed(futures):
                if failures:
                    raise failures[0]  # the first; the others may only be its consequence
            return [result for future in futures for result in future.result()]
        finally:
            stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)  # those in flight end by themselves, unheard

    def stream(self, call: Call[bytes]) -> EventStream:
        """One request answered by server-sent events."""
        return EventStream(self._reply(call, threading.Event(), stream=True))

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def _reply(self, call: Call[T], stopped: threading.Event, *, stream: bool = False) -> httpx.Response:
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
        self._http = httpx.AsyncClient(
            base_url=settings.base_url,
            headers=settings.headers(),
            timeout=settings.timeouts(),
            transport=transport,
        )

    async def send(self, call: Call[T]) -> T:
        """One request, its answer parsed."""
        return call.parse((await self._reply(call)).content)

    async def send_all(self, batch: Batch[T]) -> list[T]:
        """All requests of a batch, several at once; results in order. The first failure stops the rest."""
        if batch.size == 1:
            return await self.send(batch.build(0))
        free, failures = asyncio.Semaphore(self.settings.max_in_flight), list[BaseException]()

        async def work(k: int) -> list[T]:
            async with free:
                if failures:
                    return []  # nobody asks any more
                try:
                    return await self.send(batch.build(k))
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

    async def stream(self, call: Call[bytes]) -> AsyncEventStream:
        """One request answered by server-sent events."""
        return AsyncEventStream(await self._reply(call, stream=True))

    async def aclose(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def _reply(self, call: Call[T], *, stream: bool = False) -> httpx.Response:
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
