"""The report in a real browser, from disk, with nothing else to reach."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

from nla_data.report.build import write_report
from nla_data.report.compare import write_comparison
from tests.browser import chromium, listened, overflow
from tests.data.outputs import write

WIDTHS: Final = (390, 1280)
TEXT: Final = (
    "<script>alert(1)</script> A passage about harbours, with one word that has no place to break: "
    + "x" * 200
    + "\n\nFinal token: ships. Row"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


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
    said = listened(page)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url.partition(":")[0]))
    page.goto(path.as_uri(), wait_until="load")
    shown = page.evaluate("Array.from(document.images, image => [image.complete, image.naturalWidth])")
    for closed in page.query_selector_all("details:not([open]) summary"):
        closed.click()
    wider = overflow(page)
    picture = path.with_name(f"page-{width}.png")
    page.screenshot(path=str(picture), full_page=True)
    page.close()
    assert said == []
    assert set(asked) <= {"file", "data"}
    assert len(shown) == images
    assert all(complete and natural > 0 for complete, natural in shown)
    assert wider == 0
    assert picture.stat().st_size > 10_000
