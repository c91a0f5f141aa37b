"""Chromium, for pages that are looked at as a person does."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

BUILD: Final = Path(__file__).parents[1] / "build"
"""Where pictures are kept for a person to look at."""
WAIT_MS: Final = 180_000
"""For machines that are busy."""
FLAGS: Final = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


@contextmanager
def chromium() -> Iterator[Any]:
    """Open Chromium; where there is none, the test is skipped, but in CI it fails."""
    path = shutil.which("chromium")
    if path is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no chromium: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=FLAGS, timeout=WAIT_MS)
        yield opened
        opened.close()


def listened(page: Any) -> list[str]:
    """Note whatever a page complains of: errors, failed requests, dialogs."""
    said: list[str] = []
    page.set_default_timeout(WAIT_MS)
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("requestfailed", lambda request: said.append(request.url))
    page.on("dialog", lambda dialog: said.append(dialog.message))
    return said


def overflow(page: Any) -> int:
    """How many pixels the page is wider than its window."""
    wider: int = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    return wider
