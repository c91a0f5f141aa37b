"""The engines of one part, one or several alike: who gets a place, at which engine, and what if that is lost."""

import asyncio
import os
import random
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    aclosing,
    asynccontextmanager,
    contextmanager,
    suppress,
)
from enum import Enum, auto
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Final, Self, TypeVar
from urllib.parse import quote

from nla_client.wire import Usage
from nla_gateway.engines.concurrency import Owner, Turns
from nla_gateway.engines.engine import RETRY_AFTER_S, Engine, EngineLostError
from nla_gateway.errors import EngineUnavailable
from nla_gateway.roles import Role
from nla_gateway.settings import COUNTERS_VARIABLE, EngineSettings
from nla_gateway.states import EngineState
from nla_gateway.telemetry.metrics import Metrics
from nla_gateway.telemetry.tracing import UNTRACED, Tracing

T = TypeVar("T")

MOST_LOST: Final = 2
"""Engines that one request may see die: it could be what kills them."""
RESTART_S: Final = 30
"""About what an engine takes to be back, for Retry-After."""
AGAIN_S: Final = 0.2
"""Between two tries: whoever watches the engine should have seen by then what became of it."""


class Mark(Enum):
    """What a stream yields beside its pieces."""

    ANEW = auto()
    """What came so far was lost with its engine, and comes again."""


class EnginePool:
    """Engines that serve the same checkpoint. A request that is lost with its engine is sent again.

    Args:
        label: what messages call them, such as `verbalizer`.
        settings: where they are.
        metrics: are told what becomes of the engines.
        tracing: makes spans of the calls.
    """

    def __init__(self, label: str, settings: EngineSettings, metrics: Metrics, tracing: Tracing = UNTRACED) -> None:
        self.label, self._metrics = label, metrics
        self.fingerprint = settings.fingerprint
        """What tells the checkpoint from others; None until an engine has told it."""
        several = len(settings.urls) > 1
        self.engines = [
            Engine(f"{label} {number}" if several else label, url, settings, tracing)
            for number, url in enumerate(settings.urls, 1)
        ]
        count = len(self.engines)
        self._turns = Turns(settings.max_in_flight * count, settings.shared_in_flight * count)
        self._changed = asyncio.Event()
        self._leaving = False
        for engine in self.engines:
            metrics.engine_state(engine.label, engine.state)

    def settle_fingerprint(self, told: str) -> None:
        """Hold the engines to what the first of them serves, as all gateways of this nla-serve do."""
        if (folder := os.environ.get(COUNTERS_VARIABLE)) is None:
            self.fingerprint = self.fingerprint or told
            return
        settled = Path(folder) / f"{quote(self.label, safe='')}.fingerprint"
        with NamedTemporaryFile("w", dir=folder) as mine:
            mine.write(told)
            mine.flush()
            with suppress(FileExistsError):
                os.link(mine.name, settled)
        self.fingerprint = settled.read_text()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Self]:
        """Hold connections to the engines."""
        async with AsyncExitStack() as stack:
            for engine in self.engines:
                await stack.enter_async_context(engine)
            yield self

    def set_state(self, engine: Engine, state: EngineState, reason: str | None = None) -> None:
        """Note what has become of an engine."""
        if state == "ready":
            engine.life += 1
            if engine.state != "starting":
                self._metrics.engine_restarted(engine.label)
        engine.state, engine.reason = state, reason
        self._metrics.engine_state(engine.label, state)
        self._wake()

    def leave(self) -> None:
        """Wait for no engine any more: the gateway stops."""
        self._leaving = True
        self._wake()

    def unavailable(self) -> EngineUnavailable | None:
        """Tell why no engine takes requests; None while one does."""
        states = {engine.state for engine in self.engines}
        if "ready" in states:
            return None
        if states == {"failed"}:
            return EngineUnavailable(f"the {self.label} failed its self-test: {self.engines[0].reason}")
        if "starting" in states:
            return EngineUnavailable(f"the {self.label} is still starting", retry_after_s=RETRY_AFTER_S)
        return EngineUnavailable(f"the {self.label} is being restarted", retry_after_s=RESTART_S)

    def require_ready(self) -> None:
        """Raise EngineUnavailable while no engine has passed its self-test."""
        if (error := self.unavailable()) is not None:
            raise error

    def used(self, usage: Usage, role: Role) -> None:
        """Count what an engine has read and written, for whoever asked."""
        self._metrics.tokens(role.label, usage)

    def read(self, tokens: int, role: Role) -> Usage:
        """Count what an engine has read alone; returns it."""
        usage = Usage(prompt_tokens=tokens, cached_tokens=0, completion_tokens=0)
        self.used(usage, role)
        return usage

    def small_come_in(self) -> bool:
        """Whether somebody sits and waits for a small request, so that what runs beside it should be short."""
        return self._turns.small_come_in()

    def turn(self, owner: Owner, *, whole: bool = False) -> AbstractAsyncContextManager[None]:
        """Wait until there is room for one more request, and hold the place; owners take turns. See `Turns.turn`."""
        return self._turns.turn(owner, whole=whole)

    async def run(self, attempt: Callable[[Engine, int], Awaitable[T]]) -> T:
        """Have an engine do something; when it is lost meanwhile, another does, or itself once it is back.

        Args:
            attempt: takes the engine and the number of the attempt, from 0.

        Raises:
            EngineUnavailable: the gateway stops and no engine is there, or too many were lost with it.
        """
        losses = _Losses(self.label)
        while True:
            with self._busy(await self._pick()) as engine, losses.counted(engine):
                return await attempt(engine, losses.attempts)
            await asyncio.sleep(AGAIN_S)

    async def stream(self, attempt: Callable[[Engine, int], AsyncGenerator[T, None]]) -> AsyncGenerator[T | Mark, None]:
        """The same for an attempt that yields; where it starts over, Mark.ANEW says so."""
        losses = _Losses(self.label)
        while True:
            with self._busy(await self._pick()) as engine, losses.counted(engine):
                async with aclosing(attempt(engine, losses.attempts)) as pieces:
                    async for piece in pieces:
                        yield piece
                return
            yield Mark.ANEW
            await asyncio.sleep(AGAIN_S)

    async def _pick(self) -> Engine:
        """Wait for an engine that is ready, and choose that with the least in flight."""
        while True:
            if ready := [engine for engine in self.engines if engine.state == "ready"]:
                # By chance among equals: several gateways, which know nothing of each other, would all take the first.
                return min(ready, key=lambda engine: (engine.in_flight, random.random()))  # noqa: S311 - guards nothing
            if self._leaving:
                raise EngineUnavailable(
                    f"this server stops, and the {self.label} is not there", retry_after_s=RESTART_S
                )
            await self._changed.wait()

    @contextmanager
    def _busy(self, engine: Engine) -> Iterator[Engine]:
        engine.in_flight += 1
        try:
            yield engine
        finally:
            engine.in_flight -= 1

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


class _Losses:
    """How often one request was tried, and how many lives of engines were lost with it."""

    def __init__(self, label: str) -> None:
        self._label, self.attempts = label, 0
        self._lives: set[tuple[Engine, int]] = set()

    @contextmanager
    def counted(self, engine: Engine) -> Iterator[None]:
        """Try once, and swallow the loss of the engine.

        Raises:
            EngineUnavailable: it was one too many.
        """
        try:
            yield
        except EngineLostError:
            self.attempts += 1
            self._lives.add((engine, engine.life))  # until the loss is noticed, several attempts may meet one
            if len(self._lives) > MOST_LOST:
                message = f"the {self._label} was lost {len(self._lives)} times with this request: is it at fault?"
                raise EngineUnavailable(message, retry_after_s=RESTART_S) from None
