"""One demo stack for the whole session."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import pytest
from hypothesis import settings
from numpy.typing import NDArray

from nla_gateway.settings import Settings
from tests.plain import load_demo_vectors
from tests.stack import Stack, serving

settings.register_profile("unhurried", settings(), deadline=None)  # no test depends on how fast the machine is
settings.load_profile("unhurried")

SHARED: Final = frozenset({"demo", "demo_with_source"})
"""Stacks of a whole session."""
SLOW: Final = ("benchmarks", "e2e", "real")
"""Rooms of tests that start engines."""


def pytest_itemcollected(item: pytest.Item) -> None:
    """Where tests are spread over processes, those that share a stack stay together."""
    item.add_marker(pytest.mark.xdist_group(_group(item)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest begins first, so that no process is left alone with it."""
    items.sort(key=_turn)


def _group(item: pytest.Item) -> str:
    if SHARED & {*getattr(item, "fixturenames", ())}:
        return "shared"
    return item.nodeid.partition("::")[0]


def _turn(item: pytest.Item) -> int:
    if _group(item) == "shared":
        return 0
    return 1 if Path(item.nodeid).parts[1] in SLOW else 2


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The demo pair, served as `make demo` does."""
    with serving(tmp_path_factory.mktemp("demo") / "log", "--preset", "demo") as stack:
        yield stack


@pytest.fixture(scope="session")
def demo_with_source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The demo pair with its verbalizer as a stand-in for a source, as the pages say to try calls with texts."""
    flags = ["--preset", "demo", "--source", "package:nla_launch/demo/verbalizer"]
    with serving(tmp_path_factory.mktemp("source") / "log", *flags) as stack:
        yield stack


@pytest.fixture(scope="session")
def demo_settings(demo: Stack) -> Settings:
    """The settings of the demo's gateway: addresses and keys of its engines."""
    return demo.settings()


@pytest.fixture(scope="session")
def demo_vectors() -> NDArray[np.float32]:
    """Held-out demo vectors [64, d_model]."""
    return load_demo_vectors()
