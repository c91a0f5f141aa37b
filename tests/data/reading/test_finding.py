"""Which files are meant: links, folders that cannot be read, and what is said of what is left out."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nla_data.errors import UsageError
from nla_data.reading import files, walking


def save(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.ones((2, 3), np.float32))
    return path


def found(*given: Any, **options: Any) -> list[str]:
    return [Path(file.path).name for file in files.find(list(map(str, given)), **options)]


def test_links(tmp_path: Path) -> None:
    save(tmp_path / "elsewhere" / "a.npy")
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "linked.npy").symlink_to(tmp_path / "elsewhere" / "a.npy")
    (folder / "sub").symlink_to(tmp_path / "elsewhere")
    (folder / "round").symlink_to(folder)  # it would have no end
    for given in (folder, folder / "**" / "*.npy"):
        assert found(given) == ["linked.npy", "a.npy"]
    broken = folder / "gone.npy"
    broken.symlink_to(tmp_path / "nowhere.npy")
    for given in (folder, folder / "*.npy", folder / "gone.npy"):
        with pytest.raises(UsageError, match=r"gone\.npy"):
            found(given)
    broken.rename(folder / "gone.txt")  # nobody would have read it
    assert found(folder) == ["linked.npy", "a.npy"]


def test_globs_enter_no_folder_that_they_do_not_mean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("layer=20/a.npy", "layer=21/b.npy", "private/c.npy", "layer=20/deep/d.npy"):
        save(tmp_path / name)
    entered = list[str]()
    look = walking._in

    def watch(filesystem: Any, folder: str) -> Any:
        entered.append(Path(folder).name)
        if "private" in folder:  # as root, a test could read it
            raise PermissionError(13, "Permission denied", folder)
        return look(filesystem, folder)

    monkeypatch.setattr(walking, "_in", watch)
    assert found(tmp_path / "layer=*" / "*.npy") == ["a.npy", "b.npy"]
    assert sorted(entered) == ["layer=20", "layer=21", tmp_path.name]
    assert found(tmp_path / "layer=2[0]" / "**" / "*.npy") == ["a.npy", "d.npy"]
    for given in (tmp_path, tmp_path / "**" / "*.npy", tmp_path / "*" / "*.npy"):
        with pytest.raises(UsageError, match="Permission denied"):
            found(given)


def test_what_is_left_out_is_told(tmp_path: Path) -> None:
    save(tmp_path / "a.npy")
    for name in ("b.txt", "c.csv", "d.npy.gz", "e.bin", "README.md", "a.npy.nla_meta.yaml", ".f.txt", "_SUCCESS"):
        (tmp_path / name).write_text("")
    told = list[str]()
    assert found(tmp_path, warn=told.append) == ["a.npy"]
    assert [text.partition(": ")[2].replace(f"{tmp_path}{os.sep}", "") for text in told] == [
        "left out, since they are no files of vectors: b.txt, c.csv, d.npy.gz and 1 more"
    ]
    assert found(tmp_path / "*.npy", warn=told.append) == ["a.npy"]
    assert len(told) == 1
