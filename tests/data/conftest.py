"""A gateway of each test's own, without engines, and a clock that no test waits for."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from nla_data.running import gateways
from tests.data.gateway import FakeGateway, fake_gateway


class Clock:
    """Only pauses move it, and they take no time; `meanwhile(k)` comes halfway of the pause number k."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pauses: list[float] = []
        self.meanwhile: Callable[[int], Awaitable[Any]] = lambda _pause: asyncio.sleep(0)

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds / 2
        await self.meanwhile(len(self.pauses) - 1)
        self.now += seconds / 2


@pytest.fixture
def gateway() -> Iterator[FakeGateway]:
    with fake_gateway() as fake:
        yield fake


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of a run's gateways."""
    clock = Clock()
    monkeypatch.setattr(gateways, "time", clock)
    monkeypatch.setattr(gateways, "asyncio", SimpleNamespace(**(vars(asyncio) | {"sleep": clock.sleep})))
    return clock
