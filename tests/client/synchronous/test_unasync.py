"""The synchronous client is what its asynchronous twin makes it; `make unasync` writes it anew."""

import ast
from pathlib import Path

import pytest

from nla_client.sending import tasks, threads
from tests import unasync


@pytest.mark.parametrize("source", unasync.SOURCES, ids=lambda path: path.name)
def test_the_synchronous_files_are_pinned(source: Path) -> None:
    assert unasync.target(source).read_text() == unasync.made(source), f"{source.name} changed: `make unasync`"


@pytest.mark.parametrize("said", unasync.TEXTS)
def test_what_is_said_otherwise_is_said(said: str) -> None:
    assert any(said in path.read_text() for path in unasync.SOURCES)


@pytest.mark.parametrize("source", unasync.SOURCES, ids=lambda path: path.name)
def test_nothing_asynchronous_is_left(source: Path) -> None:
    text = unasync.made(source)
    told = text.split("\n", 1)[1].lower()
    assert not {word for word in ("async", "await", "event loop") if word in told}
    waiting = (ast.AsyncFunctionDef, ast.AsyncFor, ast.AsyncWith, ast.Await)
    assert not [node for node in ast.walk(ast.parse(text)) if isinstance(node, waiting)]


def test_tasks_and_threads_have_the_same_names() -> None:
    """Those that the room `asynchronous` may import."""
    own = {
        module: {
            name: sorted(method for method in vars(value) if method[0] != "_")
            for name, value in vars(module).items()
            if getattr(value, "__module__", "") == module.__name__ and isinstance(value, type)
        }
        for module in (tasks, threads)
    }
    assert own[tasks] == own[threads]
    assert {"Lock", "overlap"} <= vars(tasks).keys() & vars(threads).keys()
