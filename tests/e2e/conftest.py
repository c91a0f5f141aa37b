"""The page, opened in Chromium."""

import re
from collections.abc import Iterator
from typing import Any, Final

import pytest
from playwright.sync_api import Page, expect

from tests.browser import BUILD, WAIT_MS, chromium, listened, overflow
from tests.gateway.process import Running
from tests.stack import Stack

SIZES: Final = {"narrow": (390, 844, "dark"), "wide": (1600, 900, "light")}
NONE: Final = r"(?!)"
"""Matches no complaint."""
expect.set_options(timeout=WAIT_MS)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


@pytest.fixture(params=SIZES)
def size(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def open_page(browser: Any, size: str, request: pytest.FixtureRequest) -> Iterator[Any]:
    """Open the page; at the end nothing was complained of, asked for elsewhere, or wider than the window."""
    width, height, scheme = SIZES[size]
    opened: list[tuple[Any, Page, list[str], list[str], str, str]] = []

    def opening(stack: Stack | Running, path: str = "/", *, complaint: str = NONE, **options: Any) -> Page:
        context = browser.new_context(
            **{"viewport": {"width": width, "height": height}, "color_scheme": scheme, **options}
        )
        page = context.new_page()
        asked: list[str] = []
        page.on("request", lambda one: asked.append(one.url))
        opened.append((context, page, listened(page), asked, stack.url, complaint))
        page.goto(f"{stack.url}{path}")
        return page

    yield opening
    for number, (context, page, said, asked, url, complaint) in enumerate(opened):
        name = re.sub(r"\W+", "-", request.node.name)
        page.screenshot(path=str(BUILD / "page" / f"{name}{number}.png"), full_page=True)
        wider = overflow(page)
        complaints = [one for one in said if not re.search(complaint, one)]
        context.close()  # what it is still fetching fails then
        assert complaints == []
        assert [one for one in asked if not one.startswith((url, "blob:"))] == []
        assert wider <= 0
