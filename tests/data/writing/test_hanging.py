"""Ctrl-C and SIGTERM end a command within seconds, at whatever the storage hangs, and the same one goes on."""

import itertools
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from nla_data import cli
from nla_data.writing import lease
from tests.data.gateway import LIMITS, D, FakeGateway
from tests.data.storage import Storage

PIECE: Final[int] = LIMITS["max_batch"]
COUNTS: Final = (PIECE, 100)
"""Rows of the two input files; those of the first go in one request."""
WAIT_S: Final = 60.0
"""What hangs does so for ever."""
STOPPED: Final = "nla: stopped; the same command goes on where it was\n"
EXTRACT: Final = ("extract", "--drop", "activation_vector")

Lines = Sequence[str]
"""Requests that came before."""


def is_put(line: str, name: str) -> bool:
    return line.startswith(("PUT", "POST")) and name in line


def was_put(lines: Lines, name: str) -> bool:
    return any(is_put(line, name) for line in lines)


def puts(name: str) -> Callable[[str, Lines], bool]:
    return lambda line, _: is_put(line, name)


def reads_first(line: str, before: Lines) -> bool:
    return "GET /bucket/in/0" in line and was_put(before, lease.CLAIM)


def reads_second(line: str, before: Lines) -> bool:
    return "GET /bucket/in/1" in line and was_put(before, "_nla.json")


@dataclass(frozen=True)
class Place:
    """Where a run is stopped.

    Attributes:
        hangs: Whether a request does.
        out: The output.
        kept: Rows that are not asked for again.
        when: What comes before the signal, beside a request that hangs.
        command: Of nla.
    """

    hangs: Callable[[str, Lines], bool]
    out: str = "out"
    kept: int = 0
    when: Callable[[Lines], bool] = lambda _: True
    command: Sequence[str] = ("verbalize",)


PLACES: Final = {
    "the output is claimed": Place(puts(lease.CLAIM)),
    "the first rows are looked at": Place(reads_first),
    "the output is begun": Place(puts("out/_nla.json")),
    "rows are read": Place(
        reads_second, kept=PIECE, when=lambda lines: was_put(lines, "out/part-000000.parquet?uploadId")
    ),
    "a part is written, and rows are read": Place(
        lambda line, before: reads_second(line, before) or is_put(line, "out/part-000000"),
        when=lambda lines: was_put(lines, "out/part-000000"),
    ),
    "the last part is written": Place(puts("out/part-000000")),
    "a sidecar is written": Place(puts("all.parquet.nla_meta.yaml"), "out/all.parquet", command=EXTRACT),
    "the one file is uploaded": Place(puts("out/all.parquet?partNumber"), "out/all.parquet", sum(COUNTS)),
    "the upload is completed": Place(puts("out/all.parquet?uploadId"), "out/all.parquet", sum(COUNTS)),
    "the claim is given up": Place(lambda line, _: line.startswith("DELETE") and lease.CLAIM in line, kept=sum(COUNTS)),
}


@pytest.fixture(autouse=True)
def inputs(bucket: fs.FileSystem) -> None:
    random = np.random.default_rng(0)
    for k, count in enumerate(COUNTS):
        vectors = random.standard_normal((count, D)).astype(np.float32)
        table = pa.table({"activation_vector": list(vectors), "text": [f"text {row}" for row in range(count)]})
        pq.write_table(table, f"bucket/in/{k}.parquet", filesystem=bucket)


def stopped(when: Callable[[], bool], how: signal.Signals, *arguments: str) -> tuple[int, str]:
    """Run a command, and stop it at a moment: its exit code, and what it said."""
    command = [sys.executable, "-m", "nla_data", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        try:
            while not when() and running.poll() is None:
                time.sleep(0.01)
            running.send_signal(how)
            _, error = running.communicate(timeout=WAIT_S)
        finally:
            running.kill()
    return running.returncode, error


@pytest.fixture
def forgotten(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The claim of a run that has ended soon counts no more."""
    monkeypatch.setattr(lease, "LIFETIME_S", 2.0)


@pytest.mark.usefixtures("forgotten")
@pytest.mark.parametrize(
    ("place", "how"),
    list(zip(PLACES.values(), itertools.cycle([signal.SIGINT, signal.SIGTERM]))),
    ids=PLACES,
)
def test_a_run(
    bucket: fs.FileSystem, storage: Storage, gateway: FakeGateway, place: Place, how: signal.Signals
) -> None:
    query = f"?endpoint_override={storage.endpoint}&scheme=http"
    given, out = f"s3://bucket/in{query}", f"s3://bucket/{place.out}{query}"
    arguments = [*place.command, given, out, "--url", gateway.url, "--progress", "quiet"]
    storage.restart(place.hangs)
    assert stopped(lambda: storage.hung.is_set() and place.when(storage.seen), how, *arguments) == (1, STOPPED)
    assert storage.hung.is_set()
    storage.recover()
    assert bucket.get_file_info("bucket/out/all.parquet").type == fs.FileType.NotFound
    asked = gateway.vectors
    assert cli.main(arguments) == 0
    if place.command != EXTRACT:
        assert gateway.vectors - asked == sum(COUNTS) - place.kept
    assert pq.read_table(f"bucket/{place.out}", filesystem=bucket).num_rows == sum(COUNTS)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_report(
    bucket: fs.FileSystem, storage: Storage, gateway: FakeGateway, tmp_path: Path, how: signal.Signals
) -> None:
    query = f"?endpoint_override={storage.endpoint}&scheme=http"
    given, out = f"s3://bucket/in{query}", f"s3://bucket/out{query}"
    assert cli.main(["verbalize", given, out, "--score", "--url", gateway.url]) == 0
    page = tmp_path / "page.html"
    storage.restart(lambda line, _: "GET /bucket/out/part" in line)
    assert stopped(storage.hung.is_set, how, "report", out, "--to", str(page)) == (1, STOPPED)
    assert not page.exists()
    storage.recover()
    assert cli.main(["report", out, "--to", str(page)]) == 0


@pytest.mark.usefixtures("bucket")
def test_a_vector_that_is_tried(storage: Storage, gateway: FakeGateway) -> None:
    given = f"s3://bucket/in/0.parquet?endpoint_override={storage.endpoint}&scheme=http"
    storage.restart(lambda line, _: "GET /bucket/in" in line)
    assert stopped(storage.hung.is_set, signal.SIGINT, "try", given, "--url", gateway.url) == (1, STOPPED)
