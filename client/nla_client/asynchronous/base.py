"""What the clients share."""

from types import TracebackType
from typing import Self

import httpx

from nla_client.asynchronous.connection import AsyncConnection
from nla_client.calls import about
from nla_client.errors import EngineUnavailableError
from nla_client.sending.settings import Settings
from nla_client.wire import Info, ModelInfo


class AsyncClient:
    """What both clients share. For tasks of one asyncio event loop, any number; an async context manager.

    In a second event loop it raises ClientStateError; after a fork, and pickled, it works in a loop of its own.

    Args:
        base_url: Such as `http://host:8000`.
        api_key: Sent as `Authorization: Bearer KEY`; by default the environment's NLA_API_KEY.
        model: Name of the pair, where the server has several: `models()` lists them; None for the first.
        timeout: Seconds to wait for each read and write, None for ever; for a connection at most 10 in any case.
        max_retries: Attempts after the first, on connection errors, 429 and 503.
        batch_size: Most vectors or texts in one request; a larger batch is split.
        max_in_flight: Most requests that one call has under way at once.
        max_connections: Most requests that all calls together have under way at once, unread streams too; others wait.
        transport: Replaces the network, for instance `httpx.MockTransport` in tests.

    Raises:
        InvalidArgumentError: not an http(s) URL, an api_key that no header can hold, a limit below its least, or a
            variable of the environment about proxies or certificates that makes no sense.
    """

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        model: str | None = None,
        timeout: float | None = 120,
        max_retries: int = 2,
        batch_size: int = 64,
        max_in_flight: int = 8,
        max_connections: int = 128,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        settings = Settings(base_url, api_key, timeout, max_retries, batch_size, max_in_flight, max_connections, model)
        self._batch_size = batch_size
        self._connection = AsyncConnection(settings, transport)

    async def info(self) -> Info:
        """What the server serves of the pair: model names, layer, d_model, scales, limits, versions."""
        return await self._connection.send(about.info())

    async def models(self) -> list[ModelInfo]:
        """All pairs that the server serves, the first being that of clients without a `model`."""
        return await self._connection.send(about.models())

    async def ready(self) -> bool:
        """Whether every engine of the pair, without a `model` of all, has passed its self-test. Not retried."""
        try:
            return await self._connection.send(about.ready())
        except EngineUnavailableError:
            return False

    async def aclose(self) -> None:
        """Close all connections; the client cannot be used afterwards."""
        await self._connection.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
