"""Child processes, with harmless ones: what they print is kept, and a stop leaves nothing."""

import asyncio
import signal
import sys
import time

import psutil

from nla_launch.run.process import ChildProcess

STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(900)"
)
PARENT = (
    "import subprocess, sys, time; child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']);"
    " print(child.pid, flush=True); time.sleep(60)"
)


def child(code: str) -> ChildProcess:
    return ChildProcess("test", [sys.executable, "-c", code], {"MARK": "here"})


async def first_line(process: ChildProcess) -> str:
    while not process.last_lines:  # noqa: ASYNC110 - the product offers no event for it, and needs none
        await asyncio.sleep(0.02)
    return process.last_lines[0]


def test_output_and_exit_code() -> None:
    async def run() -> tuple[int, list[str]]:
        process = child("import os, sys; print(os.environ['MARK']); sys.stderr.write('bad\\n'); sys.exit(3)")
        await process.start()
        return await process.wait(), list(process.last_lines)

    code, lines = asyncio.run(run())
    assert code == 3
    assert sorted(lines) == ["bad", "here"]


def test_only_the_last_lines_are_kept() -> None:
    async def run() -> list[str]:
        process = child("for i in range(1000): print(i)")
        await process.start()
        await process.wait()
        return list(process.last_lines)

    lines = asyncio.run(run())
    assert lines[-1] == "999"
    assert len(lines) == 40


def test_stubborn_child_is_killed_after_the_grace_time() -> None:
    async def run() -> tuple[int, float]:
        process = child(STUBBORN)
        await process.start()
        await first_line(process)
        started = time.monotonic()
        await process.stop(0.5)
        return await process.wait(), time.monotonic() - started

    code, took_s = asyncio.run(run())
    assert code == -signal.SIGKILL
    assert took_s >= 0.5


def test_grandchildren_go_too() -> None:
    async def run() -> int:
        process = child(PARENT)
        await process.start()
        grandchild = int(await first_line(process))
        await process.stop(5)
        return grandchild

    pid = asyncio.run(run())
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
