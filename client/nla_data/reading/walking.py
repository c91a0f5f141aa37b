"""Goes through folders, and finds what globs mean. It knows no kinds of files."""

import fnmatch
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Final

from pyarrow import fs

_WILD: Final = re.compile(r"[*?\[]")


def is_wild(path: str) -> bool:
    """Whether a path is a glob."""
    return bool(_WILD.search(path))


def below(filesystem: Any, folder: str, leave_out: Sequence[str]) -> Iterator[Any]:
    """All files below a folder (pyarrow.fs.FileInfo), and links that lead nowhere, whose type is NotFound.

    Hidden ones (`_` and `.`, as Spark and pyarrow have it) are not entered, nor is what is to be left out.
    """
    if not isinstance(filesystem, fs.LocalFileSystem):  # one listing of all is much cheaper there
        infos = filesystem.get_file_info(fs.FileSelector(folder, allow_not_found=True, recursive=True))
        yield from (info for info in infos if info.is_file and not _is_hidden(info.path, folder, leave_out))
        return
    for info in _in(filesystem, folder):
        if _is_hidden(info.path, folder, leave_out):
            continue
        if info.type != fs.FileType.Directory:
            yield info
        elif not _leads_up(info.path):
            yield from below(filesystem, info.path, leave_out)


def matching(filesystem: Any, pattern: str, leave_out: Sequence[str]) -> Iterator[Any]:
    """What a glob means, part by part, so that `*` stays within one; `**` stands for any number of parts.

    Folders that none of its parts means are not entered.
    """
    parts = PurePosixPath(pattern).parts
    fixed = next(k for k, part in enumerate(parts) if _WILD.search(part))
    start = str(PurePosixPath(*parts[:fixed]))
    found = {info.path: info for info in _matching(filesystem, start, parts[fixed:])}
    return (info for path, info in found.items() if not _is_hidden(path, start, leave_out))


def _matching(filesystem: Any, folder: str, parts: Sequence[str]) -> Iterator[Any]:
    first, rest = parts[0], parts[1:]
    if first == "**" and rest:
        yield from _matching(filesystem, folder, rest)
    for info in _in(filesystem, folder):
        name = PurePosixPath(info.path).name
        if name[0] in "._":
            continue
        is_folder = info.type == fs.FileType.Directory
        if first == "**":
            if is_folder and not _leads_up(info.path):
                yield from _matching(filesystem, info.path, parts)
            elif not is_folder and not rest:
                yield info
        elif fnmatch.fnmatchcase(name, first):
            if is_folder and rest:
                yield from _matching(filesystem, info.path, rest)
            elif not is_folder and not rest:
                yield info


def _in(filesystem: Any, folder: str) -> list[Any]:
    """What lies in a folder; pyarrow itself leaves out links that lead nowhere."""
    if isinstance(filesystem, fs.LocalFileSystem):
        place = Path(folder)
        infos: list[Any] = filesystem.get_file_info(list(map(str, place.iterdir())) if place.is_dir() else [])
        return infos
    selector = fs.FileSelector(folder, allow_not_found=True)
    return list(filesystem.get_file_info(selector))


def _is_hidden(path: str, folder: str, leave_out: Sequence[str]) -> bool:
    if any(part[0] in "._" for part in PurePosixPath(path).relative_to(folder).parts):
        return True
    return any(path == out or path.startswith(f"{out}/") for out in leave_out)


def _leads_up(path: str) -> bool:
    """Whether a folder is a link to one that it lies in: it would have no end."""
    place = Path(path)
    return place.is_symlink() and place.resolve() in [*place.parent.resolve().parents, place.parent.resolve()]
