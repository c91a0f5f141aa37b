"""Stacks that the whole session shares."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import torch
from hypothesis import settings
from numpy.typing import NDArray

from nla_gateway.settings import Settings
from tests.plain import load_toy_vectors
from tests.stack import STAND_IN, Stack, serving

# No test depends on how fast the machine is, and none fails by a rare draw, in CI, for a change that did not cause it.
settings.register_profile("unhurried", settings(), deadline=None, derandomize=True)
settings.load_profile("unhurried")
# Beside engines and another process of tests, threads wait for each other longer than they compute: ten times as long.
torch.set_num_threads(1)

SHARED: Final = frozenset({"toy", "toy_with_source", "demo"})
"""Stacks of all tests that ask for them."""
RUNNING: Final = ExitStack()
"""Those that run: they end with the last such test, or memory would be short for what others start."""
TOLD: Final = 2000
"""Characters of a failure that are told at once."""
SLOW: Final = ("benchmarks", "e2e", "real")
"""Rooms of tests that start engines."""


class FailuresAtOnce:
    """A failure is told when it happens: a run that is ended from outside comes to no summary."""

    def __init__(self, config: pytest.Config) -> None:
        self._plugins = config.pluginmanager

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        terminal: Any = self._plugins.getplugin("terminalreporter")  # a process that a run is spread over has none
        if report.failed and terminal is not None:
            terminal.write_line(f"\n{report.nodeid} ({report.when}):\n{report.longreprtext[-TOLD:]}")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(FailuresAtOnce(config))


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


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests that share stacks come first."""
    if _group(item) != "shared":
        RUNNING.close()


def pytest_sessionfinish() -> None:
    RUNNING.close()


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Stack:
    """The toy pair, which has no source; it starts as on a user's machine."""
    return RUNNING.enter_context(serving(tmp_path_factory.mktemp("toy") / "log", "--preset", "toy", warm=False))


@pytest.fixture(scope="session")
def toy_with_source(tmp_path_factory: pytest.TempPathFactory) -> Stack:
    """The toy pair with a stand-in for a source."""
    flags = ("--preset", "toy", "--source", STAND_IN)
    return RUNNING.enter_context(serving(tmp_path_factory.mktemp("source") / "log", *flags))


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Stack:
    """The demo pair and its base model, served as `make demo` does, its page opened in a "browser" that notes it."""
    folder = tmp_path_factory.mktemp("demo")
    browser = folder / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {folder}/opened\n')
    browser.chmod(0o755)
    flags = ("--preset", "demo", "--open")
    return RUNNING.enter_context(serving(folder / "log", *flags, env={"BROWSER": f"{browser} %s"}))


@pytest.fixture(scope="session")
def toy_settings(toy: Stack) -> Settings:
    """The settings of the toy pair's gateway: addresses and keys of its engines."""
    return toy.settings()


@pytest.fixture(scope="session")
def toy_vectors() -> NDArray[np.float32]:
    """Held-out vectors of the toy pair [64, d_model]."""
    return load_toy_vectors()
