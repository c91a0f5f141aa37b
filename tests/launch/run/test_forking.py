"""The fork server, a real process, with stand-ins for SGLang's modules that take no time to import."""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import psutil
import pytest

from nla_launch.run import fork_server
from nla_launch.run.fork_server import CUDA_ERROR_NOT_INITIALIZED, MODULES
from nla_launch.run.forking import GONE, ForkedProcess, ForkServer, UnfitError
from nla_launch.run.messages import Ended, Fork, Forked, Imported, decode, encode
from nla_launch.run.process import ChildProcess
from tests.load import until

TELLS: Final = """
import json, multiprocessing, os, sys, torch

def tell(queue):
    queue.put(os.getpid())

if __name__ == "__main__":
    multiprocessing.set_start_method("spawn", force=True)
    queue = multiprocessing.Queue()
    child = multiprocessing.Process(target=tell, args=(queue,))
    child.start()
    print(json.dumps({
        "arguments": sys.argv[1:], "mark": os.environ.get("MARK"), "home": os.environ.get("HOME"), "pid": os.getpid(),
        "session": os.getsid(0), "threads": torch.get_num_threads(), "start": multiprocessing.get_start_method(),
        "child": queue.get() != os.getpid(), "files": sorted(os.listdir("/proc/self/fd"))}), flush=True)
    child.join()
    sys.exit(int(sys.argv[1]))
"""
SLEEPS: Final = "import time; print('up', flush=True); time.sleep(60)"


@pytest.fixture
def modules(tmp_path: Path) -> Path:
    """A folder of modules that goes before all others: SGLang's names, and what is to run in forks."""
    for name in MODULES:
        path = tmp_path.joinpath(*name.split(".")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    for folder in {path.parent for path in tmp_path.rglob("*.py")}:
        (folder / "__init__.py").write_text("")
    (tmp_path / "tells.py").write_text(TELLS)
    (tmp_path / "sleeps.py").write_text(SLEEPS)
    return tmp_path


def with_server(modules: Path, use: Callable[[ForkServer], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        server = ForkServer()
        server.start({"PYTHONPATH": f"{modules}:{os.environ.get('PYTHONPATH', '')}"})
        try:
            return await use(server)
        finally:
            server.close()

    return asyncio.run(run())


def child(server: ForkServer, module: str, *arguments: str, **environment: str) -> ChildProcess:
    return ChildProcess("test", [sys.executable, "-P", "-m", module, *arguments], environment, forks=server)


async def lines(process: ChildProcess, count: int = 1) -> list[str]:
    while len(process.last_lines) < count:  # noqa: ASYNC110 - the product offers no event for it, and needs none
        await asyncio.sleep(0.02)
    return list(process.last_lines)


@pytest.mark.parametrize(
    "message",
    [
        Fork("m", ["a"], {"K": "ü"}, "t"),
        Imported(None),
        Imported("why"),
        Forked(3, None),
        Forked(None, "no"),
        Ended(3, -9),
    ],
)
def test_messages_come_through(message: Any) -> None:
    assert decode(encode(message)) == message


def test_a_fork_has_all_that_a_process_of_its_own_has(modules: Path) -> None:
    async def use(server: ForkServer) -> tuple[int, dict[str, Any], dict[str, Any]]:
        first = child(server, "tells", "3", MARK="one", OMP_NUM_THREADS="3")
        second = child(server, "tells", "0", MARK="two", OMP_NUM_THREADS="1")
        await asyncio.gather(first.start(), second.start())
        codes = await asyncio.gather(first.wait(), second.wait())
        assert codes == [3, 0]
        return codes[0], json.loads(first.last_lines[-1]), json.loads(second.last_lines[-1])

    _, one, two = with_server(modules, use)
    assert (one["mark"], two["mark"]) == ("one", "two")
    assert (one["arguments"], two["arguments"]) == (["3"], ["0"])
    assert (one["threads"], two["threads"]) == (3, 1)
    for told in (one, two):
        assert told["session"] == told["pid"]
        assert told["home"] == os.environ["HOME"]
        assert told["start"] == "fork", "SGLang's processes fork in turn, though it asks for spawn"
        assert told["child"]
    assert one["files"] == two["files"], "the second has nothing of the first's"


def test_signals_exit_codes_titles_and_groups(modules: Path) -> None:
    async def use(server: ForkServer) -> None:
        process = child(server, "sleeps")
        await process.start()
        assert await lines(process) == ["up"]
        fork = process._process
        assert isinstance(fork, ForkedProcess)
        assert " ".join(psutil.Process(fork.pid).cmdline()).strip() == "sglang::test"
        await process.stop(5)
        assert await process.wait() == -15
        assert not psutil.pid_exists(fork.pid)
        with pytest.raises(ProcessLookupError):
            fork.terminate()

    with_server(modules, use)


def test_what_was_forked_ends_with_the_fork_server_which_starts_anew(modules: Path) -> None:
    async def use(server: ForkServer) -> None:
        process = child(server, "sleeps")
        await process.start()
        await lines(process)
        fork = process._process
        assert isinstance(fork, ForkedProcess)
        parent = psutil.Process(fork.pid).parent()
        assert parent is not None
        parent.kill()
        assert await process.wait() == GONE
        await process.stop(0)
        assert not psutil.pid_exists(fork.pid)
        await process.start()
        await lines(process)
        await process.stop(0)

    with_server(modules, use)


def test_what_is_asked_for_and_no_longer_wanted_is_ended(modules: Path) -> None:
    async def use(server: ForkServer) -> list[psutil.Process]:
        process = child(server, "sleeps")
        starting = asyncio.create_task(process.start())
        await asyncio.sleep(0.01)
        starting.cancel()
        other = child(server, "sleeps")
        await other.start()
        await lines(other)
        return [one for one in psutil.Process().children(recursive=True) if "sglang::test" in " ".join(one.cmdline())]

    assert len(with_server(modules, use)) == 1


@pytest.mark.parametrize(
    ("code", "why"),
    [
        (
            "import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True).start()",
            "has 2 threads",
        ),
        ("import socket\nkept = socket.socket()", "has 2 sockets"),
        ("import torch\ntorch.cuda.init()", "importing SGLang starts CUDA"),
        ("import torch\ntorch.cuda.is_initialized = lambda: True", "has started CUDA"),
        ("raise ImportError('broken')", "has ended with code 1"),
    ],
)
def test_where_nothing_can_be_forked_an_engine_imports_for_itself(
    modules: Path, code: str, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "nla_launch.run.process")
    (modules / "sglang" / "launch_server.py").write_text(code)

    async def use(server: ForkServer) -> None:
        with pytest.raises(UnfitError, match=why):
            await server.fork(Fork("sleeps", [], dict(os.environ), "test"), 2)
        process = child(server, "calendar", "2026", "11")
        await process.start()
        assert await process.wait() == 0
        assert not isinstance(process._process, ForkedProcess)
        assert "November 2026" in process.last_lines[0]

    with_server(modules, use)
    assert [message for message in caplog.messages if "engines import for themselves" in message and why in message]


def test_it_is_looked_at_before_each_fork(modules: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What was fit when all was imported may not be so later."""
    caplog.set_level("INFO", "nla_launch.run.process")
    (modules / "sglang" / "launch_server.py").write_text(
        "import signal, threading, time\n"
        "def later(*_): threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"
        "signal.signal(signal.SIGUSR1, later)"
    )

    async def use(server: ForkServer) -> None:
        first = child(server, "sleeps")
        await first.start()
        await lines(first)
        assert isinstance(first._process, ForkedProcess)
        parent = psutil.Process(first._process.pid).parent()
        assert parent is not None
        parent.send_signal(signal.SIGUSR1)
        await until(lambda: parent.num_threads() > 1, 60)
        second = child(server, "calendar", "2026", "11")
        await second.start()
        assert await second.wait() == 0
        assert not isinstance(second._process, ForkedProcess)
        await first.stop(0)

    with_server(modules, use)
    assert any("import for themselves: the fork server has 2 threads" in message for message in caplog.messages)


@pytest.mark.parametrize(
    ("status", "why"), [(CUDA_ERROR_NOT_INITIALIZED, None), (0, "the fork server has started CUDA"), (None, None)]
)
def test_a_driver_that_is_started_is_seen(status: int | None, why: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what it answers; where it is not even loaded (None), it is not."""

    class Driver:
        def __init__(self, name: str, mode: int) -> None:
            assert (name, mode & os.RTLD_NOLOAD) == ("libcuda.so.1", os.RTLD_NOLOAD), "it must not be loaded by this"
            if status is None:
                raise OSError

        def cuDeviceGetCount(self, _count: Any) -> int:  # noqa: N802 - the driver's name for it
            assert status is not None
            return status

    monkeypatch.setattr(fork_server.ctypes, "CDLL", Driver)
    monkeypatch.setattr(fork_server, "Path", lambda _path: SimpleNamespace(iterdir=lambda: [Path("1")]))
    assert fork_server.unfit() == why


def test_it_ends_with_whoever_started_it(modules: Path) -> None:
    code = (
        "import os, time; from nla_launch.run.forking import ForkServer; server = ForkServer();"
        f" server.start({{'PYTHONPATH': {str(modules)!r} + ':' + os.environ.get('PYTHONPATH', '')}});"
        " print(server._life._process.pid, flush=True); time.sleep(60)"
    )

    async def run() -> None:
        owner = ChildProcess("owner", [sys.executable, "-c", code], {})
        await owner.start()
        server = psutil.Process(int((await lines(owner))[0]))
        owner.kill()
        await owner.wait()
        deadline = time.monotonic() + 120
        while server.is_running() and server.status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)

    asyncio.run(run())
