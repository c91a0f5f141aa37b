"""What is forked in the place of an exec prints and ends as what is executed."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.stack import Stack, fork_server_of
from tests.warm import IMPORTING, WarmPopen, may_fork

PYTHON = [sys.executable, "-m"]


def outcome(popen: Callable[..., subprocess.Popen[str]], arguments: list[str], folder: Path) -> tuple[str, str, int]:
    process = popen(
        [*PYTHON, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "NLA_API_KEY": "short"},
        cwd=folder,
        text=True,
    )
    out, err = process.communicate(timeout=300)
    return out, err, process.returncode


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["nla_launch", "--version"], 0),
        (["nla_launch", "--no-such-flag"], 2),
        (["nla_launch", "--preset", "./here.yaml"], 2),  # of the folder it runs in
        (["nla_gateway", "--fd", "99", "--settings", "98"], 1),  # ends by a traceback, here of files it has not
    ],
)
def test_it_prints_and_ends_as_what_is_executed(arguments: list[str], code: int, tmp_path: Path) -> None:
    (tmp_path / "here.yaml").write_text("name: nothing\nwrong: field\n")
    (*printed, ended), (*wanted, _) = (outcome(popen, arguments, tmp_path) for popen in (WarmPopen, subprocess.Popen))
    assert [text.splitlines()[-1:] for text in printed] == [text.splitlines()[-1:] for text in wanted]
    assert ended == code


def test_a_signal_that_ends_it_is_its_exit_code() -> None:
    with WarmPopen([*PYTHON, "http.server", "--bind", "127.0.0.1", "0"], stdout=subprocess.PIPE, text=True) as process:
        assert process.poll() is None
        process.send_signal(signal.SIGKILL)
        assert process.wait(60) == -signal.SIGKILL


@pytest.mark.parametrize(
    ("command", "environment", "may"),
    [
        ([*PYTHON, "nla_launch"], {}, True),
        ([*PYTHON, "nla_launch"], {"SGLANG_TEST_RETRACT": "1"}, True),
        ([*PYTHON, "nla_launch"], {"PYTHONPATH": "elsewhere"}, False),
        ([sys.executable, "-P", "-m", "nla_launch.run.fork_server", "3"], IMPORTING, True),
        ([*PYTHON, "nla_launch.run.fork_server"], IMPORTING | {"SGLANG_TEST_RETRACT": "1"}, True),
        ([*PYTHON, "nla_launch.run.fork_server"], IMPORTING | {"SGLANG_PLUGINS": "another"}, False),
        ([*PYTHON, "sglang.launch_server"], {}, False),
        (["nvidia-smi"], {}, False),
    ],
)
def test_what_would_import_something_else_is_executed(
    command: list[str], environment: dict[str, str], may: bool
) -> None:
    assert may_fork(command, environment) is may


def test_what_nla_serve_starts_is_forked_too(toy_with_source: Stack) -> None:
    for process in (toy_with_source.gateway(), fork_server_of(toy_with_source)):
        assert "libtorch_cpu" in Path(f"/proc/{process.pid}/maps").read_text()
