"""The report in a real browser, from disk, with nothing else to reach."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

from nla_data.report.build import write_report
from nla_data.report.compare import write_comparison
from tests.data.outputs import write

WIDTHS: Final = (390, 1280)
FLAGS: Final = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
TEXT: Final = (
    "<script>alert(1)</script> A passage about harbours, with one word that has no place to break: "
    + "x" * 200
    + "\n\nFinal token: ships. Row"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    chromium = shutil.which("chromium")
    if chromium is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no chromium: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield opened
        opened.close()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("finish", [True, False])
def test_it_opens_from_disk_and_fits(tmp_path: Path, browser: Any, width: int, finish: bool) -> None:
    out = write(tmp_path / "out.parquet", 400, text=TEXT, finish=finish).out
    check(browser, write_report(str(out), groups=["token"]), width, images=4)


@pytest.mark.parametrize("width", WIDTHS)
def test_a_comparison_opens_from_disk_and_fits(tmp_path: Path, browser: Any, width: int) -> None:
    first = write(tmp_path / "first.parquet", 400, text=TEXT)
    second = write(tmp_path / "second", 400, text=TEXT, given=first.given, cosine=np.linspace(0.5, 1, 400))
    check(browser, write_comparison(first.out, second.out, groups=["token"]), width, images=2)


def check(browser: Any, path: Path, width: int, images: int) -> None:
    """Nothing is said, asked for or run; all images are there, and nothing is wider than the window."""
    page = browser.new_page(viewport={"width": width, "height": 844})
    page.set_default_timeout(180_000)  # ms, for machines that are busy
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("requestfailed", lambda request: said.append(request.url))
    page.on("dialog", lambda dialog: said.append(dialog.message))
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url.partition(":")[0]))
    page.goto(path.as_uri(), wait_until="load")
    shown = page.evaluate("Array.from(document.images, image => [image.complete, image.naturalWidth])")
    for closed in page.query_selector_all("details:not([open]) summary"):
        closed.click()
    overflow = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    picture = path.with_name(f"page-{width}.png")
    page.screenshot(path=str(picture), full_page=True)
    page.close()
    assert said == []
    assert set(asked) <= {"file", "data"}
    assert len(shown) == images
    assert all(complete and natural > 0 for complete, natural in shown)
    assert overflow == 0
    assert picture.stat().st_size > 10_000
