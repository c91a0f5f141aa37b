"""What a run tells while it goes on."""

import json
import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nla_data.asking.totals import Totals
from nla_data.running import progress
from tests.data.gateway import D, fake_gateway

TOTALS = Totals(rows=1500, failed=2, incomplete=3, scored=10, explained=10, fve=7.5)


def test_in_words() -> None:
    assert progress.sentence(TOTALS, 20_000, 50.0) == (
        "1,500 of 20,000 rows, 50.0 rows/s, 6 min 10 s left, 3 incomplete, 2 failed, mean fve 0.750"
    )
    assert progress.sentence(Totals(rows=7), None, 0.0) == "7 rows, 0.0 rows/s"
    assert "2 h 46 min left" in progress.sentence(Totals(), 10_000, 1.0)


def test_as_json() -> None:
    wanted = {
        "rows": 1500,
        "total": 2000,
        "rows_per_s": 50.0,
        "eta_s": 10,
        "incomplete": 3,
        "failed": 2,
        "mean_fve": 0.75,
    }
    assert json.loads(progress.as_json(TOTALS, 2000, 50.0)) == wanted
    assert json.loads(progress.as_json(Totals(), None, 0.0))["eta_s"] is None


@pytest.mark.parametrize(("mode", "lines"), [("log", 2), ("json", 2), ("quiet", 0), ("auto", 2)])
def test_modes(
    mode: progress.Mode, lines: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "EVERY_S", 0.0)
    shown = progress.reporter(mode)
    shown.start(100, Totals())
    shown.update(Totals(rows=10), 5.0)
    shown.close()
    assert len(capsys.readouterr().err.splitlines()) == lines
    shown.warn("strange norms")
    error = capsys.readouterr().err
    assert error == ('{"warning":"strange norms"}\n' if mode == "json" else "warning: strange norms\n")


def test_a_bar_on_a_terminal(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((300, D)).astype(np.float32)
    pq.write_table(pa.table({"activation_vector": list(100 * rows)}), tmp_path / "in.parquet")
    terminal, other_end = pty.openpty()
    with fake_gateway() as gateway:
        gateway.trouble = lambda _path, _body: time.sleep(0.1)
        command = [sys.executable, "-m", "nla_data", "verbalize", "in.parquet", "out", "--url", gateway.url, "--score"]
        process = subprocess.Popen(command, stderr=other_end, stdout=subprocess.PIPE, cwd=tmp_path, text=True)
        os.close(other_end)
        shown = b""
        while True:
            try:
                read = os.read(terminal, 4096)
            except OSError:  # the other end is closed
                break
            shown += read
        assert process.communicate()[0].startswith("out: 300 rows")
    os.close(terminal)
    text = shown.decode()
    assert "300 of 300 rows" in text
    assert "mean fve" in text
    assert "warning: the vectors' median norm" in text.replace("\r\n", " ")
    assert process.returncode == 0
