"""Ctrl-C, SIGTERM and SIGKILL at any moment leave no process and no taken port. Stops while serving: see stack.py."""

import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest

from tests.checkpoints import D_MODEL, make_pair
from tests.plain import encode, queue_of, wait_for
from tests.stack import Stack, assert_gone, assert_port_free, kill, start


@pytest.mark.parametrize(
    ("after_s", "number"),
    [(0.2, signal.SIGINT), (0.6, signal.SIGTERM), (3, signal.SIGTERM), (8, signal.SIGINT), (14, signal.SIGTERM)],
)
def test_stopping_before_ready(tmp_path: Path, after_s: float, number: int) -> None:
    stack = start(tmp_path / "log", "--preset", "toy", "--device", "cpu")
    try:
        wait_for(lambda: catches(stack.process.pid, signal.SIGTERM))
        time.sleep(after_s)
        assert stack.process.poll() is None, stack.log_text()
        assert stack.stop(number) == 0
    finally:
        kill(stack)
    assert "Traceback" not in stack.log_text()


def catches(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal, and is not ended by the kernel."""
    told = re.search(r"SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())
    assert told is not None
    return bool(int(told[1], 16) >> (number - 1) & 1)


def test_killed_outright_takes_its_children_along(tmp_path: Path) -> None:
    stack = start(tmp_path / "log", "--preset", "toy", "--device", "cpu")

    def is_computing() -> bool:
        assert stack.process.poll() is None, stack.log_text()
        return "sglang::scheduler" in titles(stack)

    try:
        wait_for(is_computing, 240)
        family = stack.family()
        stack.process.kill()
        assert_gone(family)
        assert_port_free(stack.port)
    finally:
        kill(stack)


def test_a_second_server_on_the_port_is_told_so_at_once(tmp_path: Path) -> None:
    first = start(tmp_path / "first", "--preset", "toy")
    try:
        while "starting" not in first.log_text():
            time.sleep(0.1)
        second = start(tmp_path / "second", "--preset", "toy", port=first.port)
        assert second.process.wait(60) == 2
        assert "cannot listen on 127.0.0.1" in second.log_text()
        assert len(second.log_text().splitlines()) == 1
        assert first.stop() == 0
    finally:
        kill(first)
        kill(second)


def titles(stack: Stack) -> str:
    with suppress(psutil.NoSuchProcess):  # it has just ended
        return " ".join(word for process in stack.family() for word in process.cmdline())
    return ""


def refused(stack: Stack) -> bool:
    try:
        httpx.get(f"{stack.url}/health", timeout=1, trust_env=False)
    except httpx.ConnectError:
        return True
    except httpx.TransportError:  # taken, and not answered: the listener closes just now
        return False
    return False


def test_a_stop_finishes_what_is_in_flight_and_takes_no_more(tmp_path: Path) -> None:
    pair = make_pair(tmp_path, "llama")
    # However slow the machine is, its grace is longer.
    stack = start(tmp_path / "log", "--only", "av", "--av", str(pair.av), "--device", "cpu", "--grace", "600")
    vectors = np.random.default_rng(0).standard_normal((48, D_MODEL)).astype(np.float32)
    body = {"vectors": [encode(vector) for vector in vectors], "dtype": "float32", "max_tokens": 400}
    try:
        stack.wait_ready()
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(stack.http.post, "/verbalize", json=body, timeout=600)
            wait_for(lambda: queue_of(stack) > 0)
            family = stack.family()
            stack.process.terminate()
            while not refused(stack):
                assert not answer.done(), "new requests were taken to the end"
                time.sleep(0.05)
            assert not answer.done(), "the request was too short to show anything"
            assert answer.result().status_code == 200
        assert stack.process.wait(60) == 0
        assert_gone(family)
        assert_port_free(stack.port)
    finally:
        kill(stack)
