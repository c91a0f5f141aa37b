"""Takes the README's four pictures of the page, on the demo pair: `make screenshots`."""

import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from tests.browser import chromium, listened
from tests.stack import serving

FOLDER: Final = Path(__file__).parents[1] / "client" / "examples"
SIZES: Final = {"wide": (1440, 810), "narrow": (390, 844)}
MOST_BYTES: Final = 200_000


def main() -> int:
    """Serve the demo, explain the page's own example, and look at it."""
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(Path(folder) / "log", "--preset", "demo") as stack,
        chromium() as browser,
    ):
        for size in SIZES:
            for scheme in ("light", "dark"):
                take(browser, stack.url, size, scheme)
    return 0


def take(browser: Any, url: str, size: str, scheme: str) -> None:
    """Take one picture."""
    width, height = SIZES[size]
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
    said = listened(page)
    page.goto(url)
    page.get_by_role("option").first.wait_for()
    page.get_by_role("button", name="Explain", exact=True).click()
    page.get_by_role("status", name="Progress").get_by_text("16 of 16").wait_for()
    page.get_by_role("article").nth(1).hover()
    page.locator(".part").first.wait_for()
    if size == "narrow":
        page.get_by_role("listbox", name="Tokens").evaluate("list => list.scrollIntoView()")
    else:
        page.evaluate("scrollTo(0, 0)")
    path = FOLDER / f"page-{size}-{scheme}.png"
    page.screenshot(path=str(path))
    page.close()
    if said or path.stat().st_size > MOST_BYTES:
        raise SystemExit(f"{path.name}: {path.stat().st_size} bytes; the page said {said}")


if __name__ == "__main__":
    sys.exit(main())
