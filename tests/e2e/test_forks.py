"""Engines are forked from one import; where that cannot be, they import for themselves, and serve the same."""

from pathlib import Path

import psutil

from tests.checkpoints import make_pair
from tests.stack import Stack, fork_server_of, serving, without_forks

MUCH = 16 * 2**20
MOST = 8 * MUCH
"""A tokenizer's file is read several times to load it once."""
FORKED = {"sglang::verbalizer", "sglang::reconstructor"}


def test_the_engines_are_forks(toy: Stack) -> None:
    """Of the stack that starts as on a user's machine."""
    assert {engine.cmdline()[0].strip() for engine in fork_server_of(toy).children()} == FORKED
    assert "engines import for themselves" not in toy.log_text()


def test_gateway_and_launcher_do_without_torch(toy: Stack) -> None:
    """It would be most of their memory, and of the time they take to start."""
    for process in (toy.gateway(), psutil.Process(toy.process.pid)):
        loaded = {Path(one.path).name for one in process.memory_maps()}
        assert any(name.startswith("libc.so") for name in loaded)
        assert not any(name.startswith("libtorch") for name in loaded)


def test_an_engine_loads_its_tokenizer_once(tmp_path: Path) -> None:
    """Seen by what its processes read, which are forked from one that has imported all."""
    pair = make_pair(tmp_path, "llama")
    for folder in (pair.av, pair.ar):
        with (folder / "tokenizer.json").open("a") as file:
            file.write(" " * MUCH)
    with serving(tmp_path / "log", "--av", str(pair.av), "--ar", str(pair.ar), "--device", "cpu") as stack:
        before_the_address = stack.log_text()
        engines = fork_server_of(stack).children()
        own = [one for engine in engines for one in engine.children(recursive=True)]
        assert {one.cmdline()[0].strip() for one in own} >= {"sglang::scheduler", "sglang::detokenizer"}
        assert all(MUCH < engine.io_counters().read_chars < MOST for engine in engines)
        assert all(one.io_counters().read_chars < MUCH for one in own)
    assert before_the_address.count(" s, self-test passed") == len(engines) == 2


def test_engines_that_cannot_be_forked_are_started_all_the_same(tmp_path: Path) -> None:
    pair = make_pair(tmp_path, "llama")
    flags = ("--only", "ar", "--ar", str(pair.ar), "--device", "cpu")
    with serving(tmp_path / "log", *flags, env=without_forks(tmp_path)) as stack:
        assert stack.http.post("/reconstruct", json={"texts": "a river"}).status_code == 200
        assert not any("sglang::reconstructor" in child.cmdline()[0] for child in stack.family())
    assert "engines import for themselves: the fork server has 2 threads" in stack.log_text()
