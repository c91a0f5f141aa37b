"""What the README pages do with the demo pair runs, and shows what it says it shows. `test_pages.py` has the rest."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.pages import ADDRESS, Snippet, of_kind, run
from tests.stack import Stack

pytestmark = pytest.mark.timeout(1800)  # some ask a real language model for many texts, beside another process of tests


def assert_alike(shown: Any, got: Any) -> None:
    """Equal, but for numbers in their last digits and for strings cut short by `...`."""
    if isinstance(shown, dict):
        assert shown.keys() == got.keys()
        for key in shown:
            assert_alike(shown[key], got[key])
    elif isinstance(shown, list):
        assert len(shown) == len(got)
        for one, other in zip(shown, got, strict=True):
            assert_alike(one, other)
    elif isinstance(shown, float):
        assert got == pytest.approx(shown, abs=2e-3)
    elif isinstance(shown, str) and shown.endswith("..."):
        assert got.startswith(shown.removesuffix("..."))
    else:
        assert shown == got


def ask(stack: Stack, snippet: Snippet) -> None:
    """Run a curl line, and compare what comes."""
    answer = run(snippet.text.replace(ADDRESS, stack.url))
    assert answer
    if snippet.shown is not None:
        assert_alike(json.loads(snippet.shown), json.loads(answer))
    if "stream" in snippet.text:
        assert answer.rstrip().split("\n\n")[-1].startswith("event: done")


def follow(stack: Stack, snippet: Snippet, folder: Path) -> None:
    """Run a Python block, and compare what it prints."""
    script = folder / "block.py"
    script.write_text(snippet.text.replace(ADDRESS, stack.url).replace("build/", f"{folder}/"))
    answer = run(f"{sys.executable} {script}")
    assert answer
    if snippet.shown is not None:
        assert answer == snippet.shown


def path_of(snippet: Snippet) -> str:
    return snippet.text.split()[2].removeprefix(ADDRESS)


@pytest.mark.parametrize("snippet", of_kind("curl"), ids=path_of)
def test_curl_lines(demo: Stack, snippet: Snippet) -> None:
    ask(demo, snippet)


@pytest.mark.parametrize("snippet", of_kind("curl with texts"), ids=path_of)
def test_curl_lines_with_texts(demo: Stack, snippet: Snippet) -> None:
    ask(demo, snippet)


@pytest.mark.parametrize("snippet", of_kind("python"), ids=["vectors", "doubt", "files"])
def test_python_blocks(demo: Stack, snippet: Snippet, tmp_path: Path) -> None:
    follow(demo, snippet, tmp_path)


@pytest.mark.parametrize("snippet", of_kind("python with texts"), ids=["first", "all"])
def test_python_blocks_with_texts(demo: Stack, snippet: Snippet, tmp_path: Path) -> None:
    follow(demo, snippet, tmp_path)


def test_nla_commands(demo: Stack, tmp_path: Path) -> None:
    """In their order: the later ones read what the first wrote."""
    for command in (it.text for it in of_kind("nla")):
        server = "" if "report" in command else f" --url {demo.url}"
        assert run(f"{command}{server}".replace("build/", f"{tmp_path}/").replace(ADDRESS, demo.url))
    written = {"explained.parquet", "rebuilt", "greedy.parquet"}
    written |= {
        f"{name}{ending}" for name in ("explained", "explained_against_greedy") for ending in (".html", "_files")
    }
    assert {path.name for path in tmp_path.iterdir()} == written


def test_the_start_looks_like_that(demo: Stack) -> None:
    (start,) = of_kind("make demo")
    assert run("make -n demo")
    assert start.shown is not None
    happened = {re.sub(r"\d+", "#", line) for line in [*demo.log_text().splitlines(), f"nla-serve ready on {demo.url}"]}
    lines = [re.sub(r"\d+", "#", line) for line in start.shown.splitlines() if not line.startswith("==>")]
    assert [line for line in lines if line not in happened] == []
