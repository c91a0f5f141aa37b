"""The synchronous client is made from the asynchronous one: `python -m tests.unasync` writes it anew.

Everything of the client that waits is written once, in the room `asynchronous`. What tasks and threads do in ways of
their own is behind one interface that is written twice, in `tasks.py` and `threads.py` of `sending`.
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

import unasync

CLIENT: Final = Path(__file__).parents[1] / "client" / "nla_client"
SOURCES: Final = sorted((CLIENT / "asynchronous").glob("[a-z]*.py"))
NAMES: Final = {
    "AsyncByteStream": "SyncByteStream",
    "aclose": "close",
    "aiter_bytes": "iter_bytes",
    "anext": "next",
    "aread": "read",
    "asynchronous": "synchronous",
    "handle_async_request": "handle_request",
    "tasks": "threads",
}
"""What is called otherwise; any other name loses `Async` in front."""
TEXTS: Final = {
    "For tasks of one asyncio event loop, any number; an async context manager.\n\n    In a second event loop it "
    "raises ClientStateError; after a fork, and pickled, it works in a loop of its own.": (
        "Safe to use from several threads, after a fork and pickled; a context manager."
    ),
    "and ClientStateError in another event loop. Several tasks may share it.": (
        "and ClientStateError in another process. Several threads may share it."
    ),
    "an async iterator of events": "an iterator of events",
}
"""What is said otherwise."""


def target(source: Path) -> Path:
    """Where the synchronous twin of a file is."""
    return CLIENT / "synchronous" / source.name


def made(source: Path) -> str:
    """The synchronous twin of a file, anew."""
    text = source.read_text()
    for said, otherwise in TEXTS.items():
        text = text.replace(said, otherwise)
    found = {token for line in text.splitlines() for token in _words(line)}
    names = {name: name[5:] for name in found if name[:5] == "Async" and name[5:]}
    twin = _renamed(text, names | NAMES)
    return _clean(f"# Made from asynchronous/{source.name} by `make unasync`: change that one.\n{twin}", target(source))


def _words(line: str) -> list[str]:
    return "".join(char if char.isidentifier() or char.isdigit() else " " for char in line).split()


def _renamed(text: str, names: dict[str, str]) -> str:
    with tempfile.TemporaryDirectory() as folder:
        before, after = (Path(folder, kind, "module.py") for kind in ("async", "sync"))
        before.parent.mkdir()
        before.write_text(text)
        unasync.unasync_files([str(before)], [unasync.Rule("/async/", "/sync/", names)])
        return after.read_text()


def _clean(text: str, path: Path) -> str:
    """Imports in order, lines of the usual length, `yield from` for a loop."""
    ruff = [sys.executable, "-m", "ruff"]
    fix = [*ruff, "check", "--quiet", "--fix-only", "--unsafe-fixes", "--select", "I,UP", "--stdin-filename", path, "-"]
    for command in (fix, [*ruff, "format", "--quiet", "--stdin-filename", path, "-"]):
        text = subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout
    return text


if __name__ == "__main__":
    for path in SOURCES:
        target(path).write_text(made(path))
