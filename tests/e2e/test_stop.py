"""Ctrl-C, SIGTERM and SIGKILL at any moment leave no process and no taken port. Stops while serving: see stack.py."""

import signal
import time
from pathlib import Path

import pytest

from tests.stack import assert_gone, assert_port_free, kill, start


@pytest.mark.parametrize(
    ("after_s", "number"), [(0.6, signal.SIGINT), (4, signal.SIGTERM), (12, signal.SIGINT), (25, signal.SIGTERM)]
)
def test_stopping_before_ready(tmp_path: Path, after_s: float, number: int) -> None:
    stack = start(tmp_path / "log", "--preset", "demo", "--device", "cpu")
    try:
        time.sleep(after_s)
        assert stack.process.poll() is None, stack.log_text()
        assert stack.stop(number) == 0
    finally:
        kill(stack)
    assert "Traceback" not in stack.log_text()


def test_killed_outright_takes_its_children_along(tmp_path: Path) -> None:
    stack = start(tmp_path / "log", "--preset", "demo", "--device", "cpu")
    try:
        time.sleep(20)
        family = stack.family()
        assert len(family) >= 4
        stack.process.kill()
        assert_gone(family)
        assert_port_free(stack.port)
    finally:
        kill(stack)
