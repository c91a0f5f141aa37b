"""A gateway of each test's own, without engines."""

from collections.abc import Iterator

import pytest

from tests.data.gateway import FakeGateway, fake_gateway


@pytest.fixture
def gateway() -> Iterator[FakeGateway]:
    with fake_gateway() as fake:
        yield fake
