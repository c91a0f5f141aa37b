"""What was fetched, for tests. Where npm is missing, its tests are left out, and that is said at the end; where
fetching failed, they fail. CI brings npm, so that nothing is left out there."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.real.fetch import SOURCES, Source

Needed = Callable[[Source], Path]
MISSED: set[Source] = set()


@pytest.fixture(scope="session")
def needed() -> Needed:
    """Ask for the folder of a source."""
    return folder_of


def folder_of(source: Source) -> Path:
    if not source.is_there:
        MISSED.add(source)
        (pytest.fail if source.can_be_had else pytest.skip)(source.missing)
    return source.folder


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    missed = [source.missing for source in SOURCES if source in MISSED]
    if missed:
        terminalreporter.write_line(f"NOT TRIED on real tokenizers and weights: {'; '.join(missed)}", red=True)
