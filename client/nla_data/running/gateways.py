"""The gateways that do the work: a request goes to the least busy that is up, and to another where one fails.

It decides what is tried again, and when a run gives up; it knows nothing of rows.
"""

import asyncio
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from nla_client import (
    APIConnectionError,
    APIStatusError,
    AsyncNLAClient,
    AsyncNLACritic,
    EngineUnavailableError,
    Info,
    InternalServerError,
    InvalidResponseError,
    NLAError,
    NotFoundError,
    OverloadedError,
    ServerTimeoutError,
)
from nla_data.asking.work import Call, Clients, RepeatedFailureError
from nla_data.errors import StoppedError, UsageError
from nla_data.writing.manifest import Served

T = TypeVar("T")
PATIENCE_S: Final = 600.0
IN_FLIGHT: Final = 8
"""Requests at once at each gateway, as in the clients."""
MAX_TRIES: Final = 4
"""How often a request may fail at gateways that answer others before its rows are looked at one by one."""
FIRST_PAUSE_S: Final = 0.5
MAX_PAUSE_S: Final = 8.0
MAX_TURN_S: Final = 60.0
"""Longest pause where a limit a minute of the key's own is used up."""
RECENT_S: Final = 60.0
"""A gateway that answered others so lately works: what fails there again and again is at fault itself."""
SPARE_S: Final = 30.0
"""By how much a request's timeout exceeds the server's own, which then tells the reason."""
READY_S: Final = 10.0
_FAILURES: Final = (
    APIConnectionError,
    EngineUnavailableError,
    InternalServerError,
    InvalidResponseError,
    ServerTimeoutError,
)


class Gateway:
    """One gateway, and whether it is up."""

    def __init__(self, url: str, clients: Clients) -> None:
        self.url, self.clients = url, clients
        self.up = True
        self.busy = 0
        self.troubles = 0
        """Failures since the last answer."""
        self.limited_until = -math.inf
        """When a limit a minute that it told of lets requests through again."""
        self.answered = -math.inf
        self.why = ""


class Gateways:
    """All gateways of a run, which serve the same models. An async context manager.

    Args:
        urls: Such as `http://host:8000`.
        api_key: As for the clients.
        patience: Seconds without any answer, beyond those that a limit tells to wait, after which the run gives up.
        source: Whether they must have the same source model, too.
        model: Name of their pair, where they have several.
    """

    def __init__(
        self,
        urls: Sequence[str],
        api_key: str | None,
        patience: float,
        *,
        source: bool = False,
        model: str | None = None,
    ) -> None:
        self._urls, self._patience, self._source = urls, patience, source
        self._given: dict[str, Any] = {"api_key": api_key, "model": model}
        self._stack = AsyncExitStack()
        self._probes: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Condition()
        self._last_answer = -math.inf
        self._refused = -math.inf
        """When a limit a minute refused first, after the last answer."""
        self._told_until = -math.inf
        """Until when limits told to wait."""
        self._gateways: list[Gateway] = []
        self._failure: UsageError | None = None
        self._served: Served

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for probe in self._probes:
            probe.cancel()
        await asyncio.gather(*self._probes, return_exceptions=True)
        await self._stack.aclose()

    @property
    def in_flight(self) -> int:
        """How many requests keep all of them busy."""
        return IN_FLIGHT * len(self._urls)

    async def connect(self) -> Info:
        """Ask all what they serve; they must agree.

        Raises:
            UsageError: one cannot be reached, refuses the key, or serves other models than the first.
        """
        infos = [await self._open(url) for url in dict.fromkeys(self._urls)]
        self._served = Served.of(infos[0], source=self._source)
        for gateway, info in zip(self._gateways, infos, strict=True):
            self._check_same(gateway, info)
        self._check_context(infos)
        return infos[0]

    def bounded(self) -> Call:
        """As `call`, for pieces that make several requests at once: all together no more than keep them busy."""
        free = asyncio.Semaphore(self.in_flight)

        async def call(request: Callable[[Clients], Awaitable[T]]) -> T:
            async with free:
                return await self.call(request)

        return call

    async def call(self, request: Callable[[Clients], Awaitable[T]]) -> T:
        """Make a request at a gateway that is up, and again until it is answered.

        Raises:
            InvalidRequestError: the request is at fault.
            RepeatedFailureError: the server fails at it again and again.
            StoppedError: nothing was answered for longer than the run's patience, and than limits told to wait.
            UsageError: the server refuses the run as such, or one came back with other models.
        """
        tried, faults = Counter[Gateway](), 0
        began = since = time.monotonic()
        while True:
            gateway = await self._free(since, tried)
            try:
                return await self._try(gateway, request)
            except OverloadedError as error:
                gateway.why, pause = str(error), error.retry_after or FIRST_PAUSE_S
                if error.rate_limited and error.retry_after is not None:  # it says when our turn comes
                    gateway.limited_until = time.monotonic() + max(error.retry_after, FIRST_PAUSE_S)
                    soonest = self._limits_end() - time.monotonic()
                    if soonest <= 0:  # another one may take it
                        continue
                    self._note_refusal(error.retry_after, began)
                    await asyncio.sleep(min(pause, soonest, MAX_TURN_S))
                    since = time.monotonic()  # it is asked once more after each such wait, however long
                else:
                    await asyncio.sleep(min(pause, MAX_PAUSE_S))
            except _FAILURES as error:
                tried[gateway] += 1
                faults += await self._is_requests_fault(gateway, str(error))
                if faults == MAX_TRIES:
                    raise RepeatedFailureError(f"the server failed {faults} times: {error}") from error
                await asyncio.sleep(min(FIRST_PAUSE_S * tried[gateway], MAX_PAUSE_S))

    async def _try(self, gateway: Gateway, request: Callable[[Clients], Awaitable[T]]) -> T:
        gateway.busy += 1
        try:
            answer = await request(gateway.clients)
        finally:
            gateway.busy -= 1
        self._last_answer = gateway.answered = time.monotonic()
        gateway.troubles = 0
        return answer

    def _limits_end(self) -> float:
        """When one of the gateways, which may be of other servers, lets requests through, as far as limits go."""
        return min((it.limited_until for it in self._gateways if it.up), default=math.inf)

    def _note_refusal(self, seconds: float, began: float) -> None:
        """A limit a minute has refused a request that began then; of refusals in a row the longest wait counts, once.

        Raises:
            StoppedError: nothing was answered for longer than the run's patience beyond it.
        """
        now = time.monotonic()
        if self._refused < max(self._last_answer, began):
            self._refused = now
        self._told_until = max(self._told_until, self._refused + seconds)
        if now >= self._told_until + self._patience:
            raise self._out_of_patience()

    async def _is_requests_fault(self, gateway: Gateway, why: str) -> bool:
        """Whether a gateway that failed at a request is well: it says that it is ready, and answers others."""
        gateway.why = why
        gateway.troubles += 1
        if not await self._is_well(gateway):
            self._set_down(gateway)
            return False
        return time.monotonic() - gateway.answered < RECENT_S

    async def _free(self, since: float, tried: Counter[Gateway]) -> Gateway:
        """A gateway that is up, once there is one; rather one that no limit closes, failed less, and is less busy."""
        while True:
            if self._failure:
                raise self._failure
            up = [gateway for gateway in self._gateways if gateway.up]
            left = max(self._last_answer, self._told_until, since) + self._patience - time.monotonic()
            if left <= 0:
                raise self._out_of_patience()
            if up:
                now = time.monotonic()
                return min(
                    up, key=lambda it: (it.limited_until > now, tried[it], it.busy + min(it.troubles, IN_FLIGHT))
                )
            async with self._changed:
                try:
                    async with asyncio.timeout(left):  # wait_for may lose the lock where a cancellation meets it
                        await self._changed.wait()
                except TimeoutError:
                    raise self._out_of_patience() from None

    def _out_of_patience(self) -> StoppedError:
        why = "; ".join(gateway.why for gateway in self._gateways if gateway.why) or "all requests failed"
        return StoppedError(f"no answer for {self._patience:g} s ({why}); run the same command again to go on")

    async def _is_well(self, gateway: Gateway) -> bool:
        """Whether a gateway is ready; it must still serve the same."""
        try:
            async with asyncio.timeout(READY_S):
                if not await gateway.clients.nla.ready():
                    return False
                info = await gateway.clients.nla.info()
        except NotFoundError as error:  # a pair of that name is not served there any more
            raise UsageError(f"{gateway.url}: {error}") from error
        except (NLAError, TimeoutError) as error:
            gateway.why = gateway.why or str(error)
            return False
        self._check_same(gateway, info)
        return True

    def _set_down(self, gateway: Gateway) -> None:
        if gateway.up:
            gateway.up = False
            probe = asyncio.create_task(self._probe(gateway))
            self._probes.add(probe)
            probe.add_done_callback(self._probes.discard)

    async def _probe(self, gateway: Gateway) -> None:
        """Wait until a gateway is ready again, and see that it still serves the same."""
        pause = FIRST_PAUSE_S
        while not gateway.up:
            await asyncio.sleep(pause)
            pause = min(2 * pause, MAX_PAUSE_S)
            try:
                gateway.up = await self._is_well(gateway)
            except UsageError as error:
                self._failure = error
                break
        async with self._changed:
            self._changed.notify_all()

    async def _open(self, url: str) -> Info:
        try:
            async with AsyncNLAClient(url, **self._given) as nla:
                info = await self._told(nla)
        except NLAError as error:
            raise UsageError(f"{url}: {self._explain(error)}") from error
        timeout = info.limits.request_timeout_s + SPARE_S
        # By name from now on, so that it asks how this pair is, and keeps it where others come before it.
        given = self._given | {"model": info.name}
        clients = Clients(
            AsyncNLAClient(url, **given, timeout=timeout, max_retries=0),
            AsyncNLACritic(url, **given, timeout=timeout, max_retries=0),
        )
        for client in (clients.nla, clients.critic):
            await self._stack.enter_async_context(client)
        self._gateways.append(Gateway(url, clients))
        return info

    async def _told(self, nla: AsyncNLAClient) -> Info:
        """What a server serves; where its engines alone can tell which weights, wait until it is ready."""
        info, until = await nla.info(), time.monotonic() + self._patience
        while any(part and part.fingerprint is None for part in (info.verbalizer, info.reconstructor, info.source)):
            ready = await nla.ready()
            info = await nla.info()
            if ready or time.monotonic() > until:  # an older server tells none
                return info
            await asyncio.sleep(FIRST_PAUSE_S)
        return info

    @staticmethod
    def _explain(error: NLAError) -> str:
        if isinstance(error, APIStatusError) and error.status_code == 401:
            return f"{error}; give its key in NLA_API_KEY"
        if isinstance(error, APIConnectionError):
            return f"{error}; does nla-serve run there?"
        return str(error)

    def _check_context(self, infos: Sequence[Info]) -> None:
        """Else it would depend on who is free whether a long text is read."""
        told = [info.source.context for info in infos if self._source and info.source is not None]
        if len(set(told)) > 1:
            each = ", ".join(f"{one.url}: {context}" for one, context in zip(self._gateways, told, strict=True))
            raise UsageError(f"the servers take texts of other lengths ({each} tokens): give all one --source-context")

    def _check_same(self, gateway: Gateway, info: Info) -> None:
        difference = self._served.difference(Served.of(info, source=self._source))
        if difference:
            began = f"serves another {difference.split()[0]} than the run began with"
            raise UsageError(f"{gateway.url} {began}: results would mix ({difference})")
