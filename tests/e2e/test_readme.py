"""Every command and code block of the README runs, and shows what it says it shows."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.stack import Stack

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ADDRESS = "http://127.0.0.1:8000"


class Block(NamedTuple):
    language: str
    text: str
    shown: str | None
    """The block that follows, where it is this one's output."""


def blocks() -> list[Block]:
    found = [match.groups() for match in FENCE.finditer(README)]
    outputs = [text if language in ("json", "text") else None for language, text in found[1:]]
    return [Block(language, text, shown) for (language, text), shown in zip(found, [*outputs, None], strict=True)]


def of(language: str) -> list[Block]:
    return [block for block in blocks() if block.language == language]


def commands(block: Block) -> list[str]:
    lines = block.text.replace("\\\n", " ").splitlines()
    return [line.split("   # ")[0].split("  # ")[0].strip() for line in lines if line.strip()]


COMMANDS = [command for block in of("bash") for command in commands(block)]


def run(command: str, **environment: str) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120,
        env={**os.environ, "PATH": path, **environment},
    )  # fmt: skip
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


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


def test_every_block_is_of_a_kind_that_is_run_or_compared() -> None:
    assert {block.language for block in blocks()} == {"bash", "python", "json", "text", "yaml", "console"}
    kinds = {shlex.split(command)[0] for command in COMMANDS}
    assert kinds == {"make", "curl", "nla", "nla-serve", ".venv/bin/python"}


@pytest.mark.parametrize("block", [b for b in of("bash") if "curl" in b.text], ids=lambda b: b.text.split()[2][22:])
def test_curl_lines(demo: Stack, block: Block) -> None:
    for command in commands(block):
        answer = run(command.replace(ADDRESS, demo.url))
        assert answer
        if block.shown is not None:
            assert_alike(json.loads(block.shown), json.loads(answer))
        if "stream" in command:
            assert answer.rstrip().split("\n\n")[-1].startswith("event: done")


def against_a_server() -> list[Block]:
    """The others are run elsewhere: `tests/data/test_activations.py`."""
    return [block for block in of("python") if ADDRESS in block.text]


@pytest.mark.parametrize("block", against_a_server(), ids=["first", "second", "files"])
def test_python_blocks(demo: Stack, block: Block, tmp_path: Path) -> None:
    script = tmp_path / "block.py"
    script.write_text(block.text.replace(ADDRESS, demo.url).replace("build/", f"{tmp_path}/"))
    answer = run(f"{sys.executable} {script}")
    if block.shown is not None:
        assert answer == block.shown


def test_nla_commands(demo: Stack, tmp_path: Path) -> None:
    """In their order: the later ones read what the first wrote."""
    for command in (c for c in COMMANDS if c.startswith("nla ")):
        server = "" if "report" in command else f" --url {demo.url}"
        assert run(f"{command}{server}".replace("build/", f"{tmp_path}/"))
    written = {"explained.parquet", "rebuilt", "explained.html", "explained_files"}
    assert {path.name for path in tmp_path.iterdir()} == written


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("nla-serve")])
def test_launches_plan(command: str) -> None:
    plan = run(f"{command} --dry-run", HF_HUB_OFFLINE="1", NLA_API_KEY="key", NLA_ENGINE_KEY="key")
    assert "verbalizer" in plan
    assert ("reconstructor" in plan) is ("--only av" not in command)


def test_the_inventory_is_one(tmp_path: Path) -> None:
    (tmp_path / "gpus.yaml").write_text(of("yaml")[0].text)
    plan = run(f"nla-serve --tp 8 --dry-run --inventory {tmp_path}/gpus.yaml", HF_HUB_OFFLINE="1")
    assert "NVIDIA H100 80GB HBM3" in plan


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("make ")])
def test_make_targets_exist(command: str) -> None:
    assert run(command.replace("make ", "make -n "))


@pytest.mark.parametrize("command", [c for c in COMMANDS if "pytest" in c])
def test_pytest_commands_collect(command: str) -> None:
    assert " tests collected" in run(f"{command} --collect-only -q".replace(".venv/bin/python", sys.executable))


def test_the_start_looks_like_that(demo: Stack) -> None:
    shown = next(b.shown for b in blocks() if "make demo" in b.text)
    assert shown is not None
    happened = {re.sub(r"\d+", "#", line) for line in [*demo.log_text().splitlines(), f"nla-serve ready on {demo.url}"]}
    lines = [re.sub(r"\d+", "#", line) for line in shown.splitlines() if not line.startswith("==>")]
    assert [line for line in lines if line not in happened] == []


def test_the_file_tree_is_true() -> None:
    tree = next(block.text for block in of("text") if "wire.py" in block.text)
    folder = ROOT
    for line in tree.splitlines():
        if line[0] != " ":
            folder = ROOT / line.split()[0]
            assert folder.is_dir()
        for name in re.findall(r"[\w/]+\.py|\w+/", line[2:] if line[0] == " " else ""):
            assert (folder / name).exists(), f"{folder} has no {name}"


def test_the_openapi_document_and_pages_that_it_links_exist() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert target.startswith("https://") or (ROOT / target).is_file(), target
