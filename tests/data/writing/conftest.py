"""An object storage, and a bucket of each test's own."""

import logging
from collections.abc import Iterator

import httpx
import pytest
from pyarrow import fs

from nla_data.writing import lease
from tests.data.storage import Storage, served


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


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Claims are looked at often."""
    for name, seconds in (("RENEW_S", 0.2), ("_LOOK_S", 0.1)):
        monkeypatch.setattr(lease, name, seconds)
