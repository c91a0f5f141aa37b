"""Ctrl-C and SIGTERM end a run at once, whatever it is at, and the same command goes on; outputs of the wrong kind."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nla_data import cli
from nla_data.api import Job, UsageError, Verbalize, run, run_job
from nla_data.running import blocking
from tests.data.gateway import D, FakeGateway

COUNT: Final = 500
VECTORS: Final = np.random.default_rng(0).standard_normal((COUNT, D)).astype(np.float32)
AT_ONCE_S: Final = 100.0
"""With two busy cores; what is waited for takes 300 s."""
SLOW: Final = """
import sys, time
from nla_data import __main__
from nla_data.{module} import {name} as slow
real = slow.{method}
def wait(*arguments, **options):
    open({mark!r}, "w").close()
    for _ in range({steps}):
        time.sleep({seconds})
    return real(*arguments, **options)
slow.{method} = {wrapped}
sys.exit(__main__.main())
"""


def save(path: Path) -> Path:
    pq.write_table(pa.table({"activation_vector": list(VECTORS)}), path)
    return path


def stopped(program: str, mark: Path, arguments: list[Any], how: signal.Signals) -> tuple[int, str, float]:
    """Run a program until it has made a file, and stop it: its exit code, what it said, and how long it took."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        while not mark.exists() and running.poll() is None:
            time.sleep(0.01)
        began = time.monotonic()
        running.send_signal(how)
        _, error = running.communicate(timeout=120)
    return running.returncode, error, time.monotonic() - began


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_while_inputs_are_opened(tmp_path: Path, gateway: FakeGateway, how: signal.Signals) -> None:
    """In a system's call that does not return, such as that of a storage that hangs."""
    mark = tmp_path / "mark"
    program = SLOW.format(
        module="reading", name="readers", method="look", mark=str(mark), steps=1, seconds=300, wrapped="wait"
    )
    arguments = ["verbalize", save(tmp_path / "in.parquet"), tmp_path / "out", "--url", gateway.url]
    code, error, seconds = stopped(program, mark, arguments, how)
    assert (code, error) == (1, "nla: stopped; the same command goes on where it was\n")
    assert seconds < AT_ONCE_S
    assert not (tmp_path / "out").exists()
    assert cli.main(list(map(str, arguments))) == 0


def test_while_a_disk_hangs(tmp_path: Path, gateway: FakeGateway) -> None:
    """What object storage does: see writing/test_hanging.py."""
    mark = tmp_path / "mark"
    program = SLOW.format(
        module="writing", name="store", method="os.fsync", mark=str(mark), steps=1, seconds=300, wrapped="wait"
    )
    arguments = ["verbalize", save(tmp_path / "in.parquet"), tmp_path / "out", "--url", gateway.url]
    code, error, seconds = stopped(program, mark, arguments, signal.SIGINT)
    assert (code, error) == (1, "nla: stopped; the same command goes on where it was\n")
    assert seconds < AT_ONCE_S
    assert cli.main(list(map(str, arguments))) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"_lock", "_nla.json", "part-000000.parquet"}


def test_an_output_is_locked_while_a_stopped_run_may_yet_write(
    tmp_path: Path, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a notebook, whose process goes on."""
    begun, may_end, real = threading.Event(), threading.Event(), os.fsync

    def hang(handle: int) -> None:
        begun.set()
        may_end.wait()
        real(handle)

    monkeypatch.setattr(os, "fsync", hang)
    job = Job(Verbalize(), [str(save(tmp_path / "in.parquet"))], str(tmp_path / "out"), [gateway.url])

    async def stop() -> None:
        running = asyncio.create_task(run(job))
        assert await asyncio.to_thread(begun.wait, AT_ONCE_S)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(stop())
    with pytest.raises(UsageError, match="another run is writing it"):
        run_job(job)
    may_end.set()
    for thread in threading.enumerate():
        if thread.name == blocking.THREAD:
            thread.join(AT_ONCE_S)
    assert run_job(job).totals.rows == COUNT


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_while_the_one_file_is_merged(tmp_path: Path, gateway: FakeGateway, how: signal.Signals) -> None:
    mark = tmp_path / "mark"
    program = f"""
import sys, time
from nla_data import __main__
from nla_data.writing import parts, store
parts.PART_ROWS = 64
real, seconds = store.pq.read_table, iter([1])
def slow(*arguments, **options):
    open({str(mark)!r}, "w").close()
    time.sleep(next(seconds, 10))
    return real(*arguments, **options)
store.pq.read_table = slow
sys.exit(__main__.main())
"""
    out = tmp_path / "out.parquet"
    fixed = ["--url", gateway.url, "--progress", "quiet"]
    arguments = ["verbalize", save(tmp_path / "in.parquet"), out, *fixed]
    code, error, seconds = stopped(program, mark, arguments, how)
    assert seconds < 50  # the parts take 71 s
    if how != signal.SIGKILL:
        assert (code, error) == (1, "nla: stopped; the same command goes on where it was\n")
    assert not out.exists()
    asked = gateway.vectors
    assert cli.main(list(map(str, arguments))) == 0
    assert gateway.vectors == asked
    assert pq.read_table(out)["input_row"].to_pylist() == list(range(COUNT))
    assert {path.name for path in tmp_path.iterdir()} == {"in.parquet", "out.parquet", "mark"}


@pytest.mark.parametrize(
    ("out", "message"), [("folder.parquet", "is a folder, not a file"), ("file", "is a file, not a folder")]
)
def test_an_output_of_the_other_kind(
    tmp_path: Path, gateway: FakeGateway, capsys: pytest.CaptureFixture[str], out: str, message: str
) -> None:
    (tmp_path / "folder.parquet").mkdir()
    (tmp_path / "file").write_text("mine")
    assert cli.main(["verbalize", str(save(tmp_path / "in.parquet")), str(tmp_path / out), "--url", gateway.url]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert gateway.seen == []
    assert (tmp_path / "file").read_text() == "mine"


def test_missing_rows_of_lists_of_one_length(tmp_path: Path, gateway: FakeGateway) -> None:
    """Written and read again: an empty text has no vector."""
    texts = ["a text", "", None, "b"]
    pq.write_table(pa.table({"explanation": texts}), tmp_path / "in.parquet")
    out = tmp_path / "out.parquet"
    assert cli.main(["reconstruct", str(tmp_path / "in.parquet"), str(out), "--url", gateway.url]) == 3
    table = pq.read_table(out)
    assert [vector is None for vector in table["reconstruction"].to_pylist()] == [False, True, True, False]
    assert cli.main(["score", str(out), "--column", "reconstruction", "--url", gateway.url]) == 3
    assert json.dumps(table["reconstruction_error"].to_pylist()) == '[null, "no text", "no text", null]'
