"""Sending calls: retries, batches with several requests in flight, streams.

It knows httpx and nothing of the endpoints.
"""

import os
from typing import Any, Final, Self, TypeVar

import httpx

from nla_client.asynchronous.places import AsyncBoundedTransport, AsyncConnections
from nla_client.asynchronous.stream import AsyncEvents
from nla_client.calls.base import Batch, Call
from nla_client.errors import ClientStateError, OverloadedError, PayloadTooLargeError
from nla_client.sending.allowances import Allowances
from nla_client.sending.failures import costs_a_retry
from nla_client.sending.network import Way
from nla_client.sending.settings import Settings
from nla_client.sending.tasks import Home, Stop, overlap

T = TypeVar("T")
S = TypeVar("S", bound=AsyncEvents[Any])

CLOSED: Final = "the client is closed: make another"
OTHER_PROCESS: Final = "a client with a transport of its own does not cross a fork: make one in each process"
PICKLED: Final = "a client with a transport of its own cannot be pickled: make one in each process"


class AsyncConnection:
    """Sends calls, from wherever its home allows."""

    def __init__(self, settings: Settings, transport: httpx.AsyncBaseTransport | None) -> None:
        self.settings = settings
        self.sleep = Stop.sleep
        self._given = transport
        self._way = Way() if transport else Way.to(httpx.URL(settings.base_url))
        self._home = Home()
        self._closed = False
        self._answers = 0
        self._allowances = Allowances()
        # After a fork the child opens its own: two processes on one connection would read each other's answers.
        self._clients = {os.getpid(): self._open()}

    @property
    def _http(self) -> httpx.AsyncClient:
        process = os.getpid()
        return self._clients.get(process) or self._clients.setdefault(process, self._open())

    def _open(self) -> httpx.AsyncClient:
        told = self._allowances.told

        async def heed(reply: httpx.Response) -> None:
            told(reply)

        return httpx.AsyncClient(
            base_url=self.settings.base_url,
            headers=self.settings.headers(),
            timeout=self.settings.timeouts(),
            transport=AsyncBoundedTransport(
                self._given or AsyncConnections.along(self._way), self.settings.max_connections
            ),
            trust_env=False,
            event_hooks={"response": [heed]},  # before a body is read, which may take long
        )

    def _check_usable(self) -> None:
        if self._closed:
            raise ClientStateError(CLOSED)
        if self._given is None:
            self._home.check()
        elif os.getpid() not in self._clients:  # one of the caller's may well serve several homes
            raise ClientStateError(OTHER_PROCESS)

    async def send(self, call: Call[T]) -> T:
        """One request, its answer parsed."""
        return call.parse((await self._reply(call, Stop())).content)

    async def send_all(self, batch: Batch[T]) -> list[T]:
        """All requests of a batch, several at once; results in order. The first failure stops the rest."""
        if batch.size == 1:
            return await self._results(batch.build(0), Stop())
        most = self.settings.max_in_flight
        return await overlap(batch.size, most, lambda k, stop: self._results(batch.build(k), stop))

    async def _results(self, call: Call[list[T]], stop: Stop) -> list[T]:
        try:
            return call.parse((await self._reply(call, stop)).content)
        except PayloadTooLargeError:
            if call.halves is None or stop.is_set():
                raise
        return [result for half in call.halves() for result in await self._results(half, stop)]

    async def stream(self, call: Call[bytes], kind: type[S]) -> S:
        """One request answered by server-sent events."""
        return kind(await self._reply(call, Stop(), stream=True))

    async def aclose(self) -> None:
        """Close all connections of this process."""
        if self._given is None and not self._closed:
            self._home.check()
        self._closed = True
        await self._http.aclose()

    def __reduce__(self) -> tuple[type[Self], tuple[Settings, None]]:
        # In another process it opens its own connections.
        if self._given:
            raise ClientStateError(PICKLED)
        return type(self), (self.settings, None)

    async def _reply(self, call: Call[T], stop: Stop, *, stream: bool = False) -> httpx.Response:
        self._check_usable()
        attempt, limited_s, answers = 0, 0.0, self._answers
        while True:
            try:
                with self._allowances.counting(call):
                    request = self._http.build_request(
                        call.method, call.path, params=self.settings.query(call), content=self.settings.body(call)
                    )
                    response = await self._http.send(request, stream=stream)
                if response.is_success:
                    self._answers += 1
                    return response
                await response.aread()
                failure = self.settings.failure(call, response)
            except OverloadedError as refusal:  # foreseen
                failure = refusal
            except httpx.RequestError as error:
                failure = self.settings.failure(call, error)
            if answers != self._answers:  # another request got through: the limit lets some pass
                limited_s, answers = 0.0, self._answers
            delay = self.settings.delay(call, failure, attempt, limited_s)
            if delay is None or await self.sleep(stop, delay):
                raise failure
            if costs_a_retry(failure):
                attempt += 1
            else:
                limited_s += delay
