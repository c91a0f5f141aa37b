"""The page: how soon a click shows words, beside the same request by curl, and whether it ever stands still."""

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from tests.benchmarks.figures import Figure, Scale, Target, percentile
from tests.browser import chromium, listened
from tests.plain import TOY
from tests.stack import Stack, serving

SIZES: Final = ((390, 844), (1600, 900))
SENTENCE: Final = "Cooking and music, with rain. "
CONTEXT: Final = 8192
NOTING: Final = """
window.tasks = [];
new PerformanceObserver((list) => {
  for (const task of list.getEntries()) window.tasks.push(task.duration);
}).observe({ type: "longtask" });
"""
"""What the browser counts as long: over 50 ms."""
CLICK: Final = """() => new Promise((tell) => {
  const region = document.getElementById("explanations");
  const there = () => [...region.querySelectorAll(".text")].some((one) => /\\w/.test(one.textContent));
  const watch = new MutationObserver(() => {
    if (!there()) return;
    watch.disconnect();
    setTimeout(() => tell(performance.now() - clicked)); // they are put in within a frame, and shown at its end
  });
  watch.observe(region, { subtree: true, childList: true, characterData: true });
  const clicked = performance.now();
  document.getElementById("explain").click();
})"""
"""Milliseconds from a click on Explain to the end of the frame into which the first words are put."""
SCROLL: Final = """async ([id, steps]) => {
  const place = document.getElementById(id) ?? document.scrollingElement;
  for (let step = 0; step < steps; step++) {
    place.scrollTop = (step * place.scrollHeight) / steps;
    await new Promise(requestAnimationFrame);
  }
}"""


@contextmanager
def serving_pair(folder: Path) -> Iterator[Stack]:
    """Serve a toy pair whose source takes long texts."""
    source = folder / "long"
    shutil.copytree(TOY / "verbalizer", source)
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"max_position_embeddings": CONTEXT}))
    with serving(folder / "page.log", "--preset", "toy", "--source", str(source)) as stack:
        yield stack


def measure(stack: Stack, scale: Scale) -> list[Figure]:
    """All rows."""
    with chromium() as browser:
        figures = _first_words(stack, _opened(browser, stack, SIZES[-1]), scale)
        longest = [_longest_task(stack, _opened(browser, stack, size), scale) for size in SIZES]
    name = f"page, {scale.page_tokens} tokens, {scale.page_explained} explained, scrolled and selected: longest task"
    return [*figures, Figure(name, [max(longest)], "ms", Target("at most", 100))]


def _opened(browser: Any, stack: Stack, size: tuple[int, int]) -> Any:
    page = browser.new_context(viewport=dict(zip(("width", "height"), size, strict=True))).new_page()
    listened(page)
    page.add_init_script(NOTING)
    page.goto(stack.url)
    return page


def _first_words(stack: Stack, page: Any, scale: Scale) -> list[Figure]:
    """Milliseconds to the first words by both, in turns."""
    bodies: list[str] = []
    page.on("request", lambda one: bodies.append(one.post_data) if one.url.endswith("/explain") else None)
    page.get_by_role("option").first.wait_for()
    clicks, curls = [], []
    for turn in range(scale.rounds + 1):
        click, curl = list[float](), list[float]()
        for _ in range(scale.page_clicks if turn else 1):
            click.append(page.evaluate(CLICK))
            page.get_by_role("button", name="Stop").wait_for(state="hidden")
            curl.append(_by_curl(f"{stack.url}/explain", bodies[-1]))
        if turn:
            clicks.append(percentile(click, 50))
            curls.append(percentile(curl, 50))
    more = [click - curl for click, curl in zip(clicks, curls, strict=True)]
    return [
        Figure("page: from a click on Explain to the first words, p50", clicks, "ms"),
        Figure("page: the same request by curl, p50", curls, "ms"),
        Figure("page: more than by curl", more, "ms", Target("at most", 50)),
    ]


def _by_curl(url: str, body: str) -> float:
    """Milliseconds until curl prints the first words of the answer to that body."""
    began, words, event = time.perf_counter(), None, ""
    command = ["curl", "--silent", "--no-buffer", "--json", body, url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as curl:
        for line in curl.stdout or ():
            name, _, told = line.strip().partition(": ")
            event = told if name == "event" else event
            if words is None and (name, event) == ("data", "sample.delta") and json.loads(told)["text"].strip():
                words = time.perf_counter() - began
    if words is None:
        raise RuntimeError("curl printed no words")
    return 1000 * words


def _longest_task(stack: Stack, page: Any, scale: Scale) -> float:
    """Milliseconds of the main thread's longest task in a long text, once it is explained; 0: none was over 50."""
    text = SENTENCE * _times(stack, scale.page_tokens)
    count = len(_tokens(stack, text))
    options = page.get_by_role("listbox", name="Tokens").locator("[role=option]")
    page.get_by_role("textbox", name="Text").fill(text)
    options.nth(count - 1).wait_for(state="attached")
    options.nth(count - scale.page_explained).click()
    options.nth(count - 1).click(modifiers=["Shift"])
    page.get_by_role("button", name="Explain", exact=True).click()
    page.locator("#explanations article").nth(scale.page_explained - 1).wait_for(state="attached")
    page.get_by_role("button", name="Stop").wait_for(state="hidden")
    page.wait_for_timeout(1000)
    page.evaluate("() => window.tasks.splice(0)")
    for place in ("tokens", "explained", ""):
        page.evaluate(SCROLL, [place, scale.page_steps])
    page.get_by_role("button", name="all", exact=True).click()
    options.nth(count // 2).click()
    page.get_by_role("listbox", name="Tokens").focus()
    for key in ("Home", "End", *["Shift+ArrowLeft"] * 20, *["ArrowUp"] * 5):
        page.keyboard.press(key)
    page.wait_for_timeout(1000)
    return float(max(page.evaluate("() => window.tasks"), default=0))


def _times(stack: Stack, tokens: int) -> int:
    """How often the sentence makes about so many tokens, and no more."""
    return tokens * 20 // len(_tokens(stack, SENTENCE * 20))


def _tokens(stack: Stack, text: str) -> list[Any]:
    tokens: list[Any] = stack.http.post("/tokenize", json={"texts": text}).json()["results"][0]["tokens"]
    return tokens
