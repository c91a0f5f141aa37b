"""A gateway of each test's own, without engines, a clock that no test waits for, and an object storage."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from pyarrow import fs

from nla_data.running import gateways
from tests.data.gateway import FakeGateway, fake_gateway
from tests.data.storage import Storage, served


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


@pytest.fixture(scope="module")
def storage() -> Iterator[Storage]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # or it logs every request
    with served() as storage:
        # It imports S3 only then; pyarrow waits for 3 s.
        httpx.get(f"http://{storage.endpoint}/", timeout=60).raise_for_status()
        yield storage


@pytest.fixture
def endpoint(storage: Storage) -> str:
    """Host and port of the storage."""
    return storage.endpoint


@pytest.fixture
def bucket(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> Iterator[fs.FileSystem]:
    """A file system with an empty bucket of that name, for which this process has a key."""
    httpx.post(f"http://{storage.endpoint}/moto-api/reset", timeout=60).raise_for_status()
    for name, value in (
        ("AWS_ACCESS_KEY_ID", "key"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
        ("AWS_EC2_METADATA_DISABLED", "true"),
    ):
        monkeypatch.setenv(name, value)
    system = fs.S3FileSystem(endpoint_override=storage.endpoint, scheme="http", allow_bucket_creation=True)
    system.create_dir("bucket")
    yield system
    storage.recover()


@pytest.fixture
def query(endpoint: str) -> str:
    """What ends a URI of that storage."""
    return f"?endpoint_override={endpoint}&scheme=http"
