"""The command before there is anything to stop: while it imports, fetches and plans."""

import signal
import subprocess
import sys
from typing import Any

import pytest

PROGRAM = """
import signal, sys, time, types
if "nohup" not in sys.argv:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests themselves may run under it
from nla_launch import __main__

def fetch():
    try:
        print("up", flush=True)
        time.sleep(600)
    finally:
        print("not at once")

sys.modules["nla_launch.cli"] = types.SimpleNamespace(main=fetch)
sys.exit(__main__.main())
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_a_signal_ends_it_at_once(number: signal.Signals) -> None:
    command = [sys.executable, "-c", PROGRAM]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "up\n"
            process.send_signal(number)
            told, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, told, errors) == (0, "", "")


def test_under_nohup_a_closed_terminal_ends_nothing() -> None:
    command = ["nohup", sys.executable, "-c", PROGRAM, "nohup"]
    pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "up\n"
            process.send_signal(signal.SIGHUP)
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(timeout=1)
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=60) == 0
        finally:
            process.kill()
