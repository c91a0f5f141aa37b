"""Stacks that the whole session shares."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import pytest
import torch
from hypothesis import settings
from numpy.typing import NDArray

from nla_gateway.settings import Settings
from tests.plain import load_toy_vectors
from tests.stack import STAND_IN, Stack, serving

settings.register_profile("unhurried", settings(), deadline=None)  # no test depends on how fast the machine is
settings.load_profile("unhurried")
# Beside engines and another process of tests, threads wait for each other longer than they compute: ten times as long.
torch.set_num_threads(1)

SHARED: Final = frozenset({"toy", "toy_with_source", "demo"})
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
def toy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The toy pair, which has no source; it starts as on a user's machine."""
    with serving(tmp_path_factory.mktemp("toy") / "log", "--preset", "toy", warm=False) as stack:
        yield stack


@pytest.fixture(scope="session")
def toy_with_source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The toy pair with a stand-in for a source."""
    with serving(tmp_path_factory.mktemp("source") / "log", "--preset", "toy", "--source", STAND_IN) as stack:
        yield stack


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The demo pair and its base model, served as `make demo` does, its page opened in a "browser" that notes it."""
    folder = tmp_path_factory.mktemp("demo")
    browser = folder / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {folder}/opened\n')
    browser.chmod(0o755)
    with serving(folder / "log", "--preset", "demo", "--open", env={"BROWSER": f"{browser} %s"}) as stack:
        yield stack


@pytest.fixture(scope="session")
def toy_settings(toy: Stack) -> Settings:
    """The settings of the toy pair's gateway: addresses and keys of its engines."""
    return toy.settings()


@pytest.fixture(scope="session")
def toy_vectors() -> NDArray[np.float32]:
    """Held-out vectors of the toy pair [64, d_model]."""
    return load_toy_vectors()
