"""The README pages hold together: nothing on them goes unchecked, links lead somewhere, names are those of the code."""

import re
from pathlib import Path

import pytest

from nla_gateway.limits import GatewayLimits
from nla_gateway.roles import Role
from nla_gateway.settings import Share
from nla_gateway.telemetry.metrics import Metrics
from nla_launch.keys import load_keys
from tests import warm
from tests.pages import COMPARED, KINDS, PAGES, ROOT, Snippet, anchors, kinds_of, links, name, of_kind, run, snippets

TESTS = Path(__file__).parent
PACKAGES = ("client", "server", "launch")
SERVER = (ROOT / "server" / "README.md").read_text()


def test_the_front_page_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_snippet_is_of_one_kind(page: Path) -> None:
    """A kind is what a test asks for: a snippet of none would never be run."""
    for snippet in snippets(page.read_text(), name(page)):
        kinds = kinds_of(snippet)
        assert len(kinds) == 1, f"{snippet.page}: {kinds or 'run by no test'}\n{snippet.text}"
        assert snippet.shown is None or kinds[0] in COMPARED, f"{snippet.page}: compared by no test\n{snippet.shown}"


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_run_by_one_test(kind: str) -> None:
    sources = [path.read_text() for path in TESTS.rglob("test_*.py")]
    assert sum(source.count(f'of_kind("{kind}")') for source in sources) == 1
    assert of_kind(kind), "no page has any"


@pytest.mark.parametrize(
    "block",
    ["```bash\nmake test\nrm -rf build\n```", "```python\nprint(1)\n```", "```json\n{}\n```", "```\nls\n```", "    ls"],
)
def test_what_nobody_runs_is_found(block: str) -> None:
    assert [] in [kinds_of(snippet) for snippet in snippets(f"# A page\n\n{block}\n", "README.md")]


def test_commands_and_their_outputs_are_told_apart() -> None:
    page = "```bash\nmake lint   # first\nA=1 curl \\\n  x\n```\n\n```json\n{}\n```\n\nWords.\n\n```text\nmore\n```\n"
    first, second, rest = snippets(page, "README.md")
    assert first == Snippet("README.md", "bash", "make lint", None)
    assert (second.program, second.shown) == ("curl", "{}\n")
    assert (rest.language, rest.shown) == ("text", None)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in links(page):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_file(), f"{link}: no such file"
        assert target.is_relative_to(ROOT), f"{link}: outside"
        assert not anchor or anchor in anchors(target), f"{link}: no such heading"


def test_the_front_page_leads_to_all_others() -> None:
    found = {(ROOT / link.partition("#")[0]).resolve() for link in links(ROOT / "README.md")}
    assert found >= set(PAGES[1:])


def in_the_tree() -> set[Path]:
    """Read the folders and files that the file tree names."""
    (tree,) = of_kind("tree")
    found: set[Path] = set()
    for line in tree.text.splitlines():
        if line[0] != " ":
            folder = ROOT / line.split()[0]
            found.add(folder)
        else:
            found.update(folder / entry for entry in re.findall(r"[\w/]+\.py|\w+/", line))
    return found


def test_the_file_tree_is_true() -> None:
    assert [path for path in in_the_tree() if not path.exists()] == []


def test_the_file_tree_is_whole() -> None:
    """But for the modules of the demo's and the toy pair's training, and the families' few lines."""
    rooms = {path.parent for package in PACKAGES for path in (ROOT / package).rglob("__init__.py")}
    told = [room for room in rooms if room.name not in ("demo", "toy", "models")]
    modules = {path for room in told for path in room.glob("*.py") if not path.name.startswith("__")}
    assert sorted((rooms | modules) - in_the_tree()) == []


def test_the_limits_are_told() -> None:
    rows = re.findall(r"^\| (`(?:max|request|stall|grace)_.*?) \|", SERVER, re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", " ".join(rows))) == set(GatewayLimits.model_fields)


def test_the_metrics_are_told() -> None:
    rows = re.findall(r"^\| (`nla_.*?) \|", SERVER, re.MULTILINE)
    told = set(re.findall(r"nla_\w+", " ".join(rows)))
    families = {line.split()[2] for line in Metrics().text().decode().splitlines() if line.startswith("# TYPE")}
    assert told == {family for family in families if not family.endswith("_created")}


@pytest.mark.parametrize("command", [it.text for it in of_kind("nla-serve")])
def test_launches_plan(command: str, tmp_path: Path) -> None:
    (file,) = of_kind("pairs")
    (tmp_path / "pairs.yaml").write_text(file.text)
    folder = tmp_path if "--pairs" in command else ROOT
    plan = run(f"{command} --dry-run", folder, HF_HUB_OFFLINE="1", NLA_API_KEY="key", NLA_ENGINE_KEY="key")
    engines = re.findall(r"^(?:(\w+) )?(verbalizer|reconstructor|source)$", plan, re.MULTILINE)
    named = re.findall(r"--pair '?(\w+)=", command) + ["qwen", "mine", "far"] * (folder == tmp_path)
    assert list(dict.fromkeys(pair for pair, _ in engines)) == (named or [""])
    if named:
        return
    planned = {label for _, label in engines}
    only = re.search(r"--only (\w+)", command)
    with_source = "--source" in command or "--preset demo" in command  # which names one
    pair = {"verbalizer", "reconstructor"} | ({"source"} if with_source else set())
    assert planned == ({Role(only[1]).label} if only else pair)


def test_the_inventory_is_one(tmp_path: Path) -> None:
    (inventory,) = of_kind("inventory")
    (tmp_path / "gpus.yaml").write_text(inventory.text)
    plan = run(f"nla-serve --tp 8 --dry-run --inventory {tmp_path}/gpus.yaml", HF_HUB_OFFLINE="1")
    assert "NVIDIA H100 80GB HBM3" in plan


def test_the_keys_file_is_one(tmp_path: Path) -> None:
    (keys,) = of_kind("keys")
    (tmp_path / "keys.yaml").write_text(keys.text)
    found = load_keys(None, f"{tmp_path}/keys.yaml", None)
    assert {name: entry.key for name, entry in found.items()} == {"ada": "her-key", "nightly-runs": "its-key"}
    share = found["nightly-runs"].share()
    assert set(re.findall(r"^  (\w+):", keys.text, re.MULTILINE)) == {"key", *Share.model_fields}
    assert share.tokens_per_minute == 1_000_000


@pytest.mark.parametrize("command", [it.text for it in of_kind("make")])
def test_make_targets_exist(command: str) -> None:
    assert run(command.replace("make ", "make -n "))


@pytest.mark.parametrize("command", [it.text for it in of_kind("pytest")])
def test_pytest_commands_name_tests(command: str) -> None:
    rooms = [ROOT / room for room in command.removeprefix(".venv/bin/python -m pytest ").split()]
    assert rooms
    assert all((room.match("test_*.py") and room.is_file()) or any(room.rglob("test_*.py")) for room in rooms)


@pytest.mark.parametrize("command", [it.text for it in of_kind("training")])
def test_the_training_would_start(command: str) -> None:
    """It takes hours, and would write over what is committed: only its flags are looked at."""
    _, _, module, *arguments = command.split()
    done = warm.run(module, "--help")
    assert done.returncode == 0, done.stderr
    assert all(word in done.stdout for word in arguments if word.startswith("--"))
