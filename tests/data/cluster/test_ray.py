"""Runs on a Ray cluster of two workers, one of which is killed; what comes of it equals a run without Ray."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nla_data import cli
from nla_data.api import Job, StoppedError, Verbalize, run_job
from nla_data.cluster import run as cluster
from nla_data.ray import VerbalizeBatches
from tests.data.gateway import D, FakeGateway, failure

pytestmark = pytest.mark.filterwarnings(
    # Ray Data sets settings that it has itself deprecated, whenever it is used.
    "ignore:.* is deprecated:Warning:ray.data.context",
)

COUNT: Final = 2000
VECTORS: Final = np.random.default_rng(0).standard_normal((COUNT, D)).astype(np.float32)


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """A cluster of this test's own; none of its processes is left."""
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    with pytest.MonkeyPatch.context() as changed:
        changed.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))  # its workers import the same
        changed.setenv("RAY_AUTH_MODE", "disabled")  # or it leaves a token in the home folder
        changed.setenv("RAY_USAGE_STATS_ENABLED", "0")
        changed.setenv("RAY_memory_monitor_refresh_ms", "0")  # or workers are killed where engines fill the memory
        import ray

        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100 * 2**20)
        ours = [child for child in psutil.Process().children(recursive=True) if child.pid not in before]
        yield ray
        ray.shutdown()
    psutil.wait_procs(ours, 120)
    assert [child for child in ours if child.is_running() and child.status() != psutil.STATUS_ZOMBIE] == []


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "CHUNK_ROWS", 150)


@pytest.fixture
def given(tmp_path: Path) -> str:
    """Two files of rows."""
    (tmp_path / "in").mkdir()
    for name, part in (("a", slice(0, 700)), ("b", slice(700, COUNT))):
        table = {"token": [f"t{k}" for k in range(COUNT)[part]], "activation_vector": list(VECTORS[part])}
        pq.write_table(pa.table(table), tmp_path / "in" / f"{name}.parquet", row_group_size=100)
    return str(tmp_path / "in")


def nla(gateway: FakeGateway, *arguments: Any) -> int:
    fixed = ("--url", gateway.url, "--seed", "5", "--n", "2", "--best", "--progress", "quiet")
    return cli.main(["verbalize", *map(str, arguments), *fixed])


def workers() -> list[psutil.Process]:
    """Processes that are doing chunks: Ray names them by what they run."""
    found = []
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # it has just ended
            if any("MapWorker" in word for word in child.cmdline()):
                found.append(child)
    return found


@pytest.mark.parametrize("command", ["extract", "explain", "explain --keep-vectors"])
@pytest.mark.parametrize("positions", ["random:2", "all"])
def test_texts(ray: Any, tmp_path: Path, gateway: FakeGateway, command: str, positions: str) -> None:
    """What is drawn is the same, of positions and of samples: a text's positions go by its row, seeds by position."""
    del ray
    texts = [f"text {k} " * (k % 5) for k in range(200)]
    for name, part in (("a", texts[:90]), ("b", texts[90:])):
        pq.write_table(pa.table({"text": part}), tmp_path / f"{name}.parquet")
    given = (f"{tmp_path}/a.parquet", f"{tmp_path}/b.parquet")
    fixed = ("--positions", positions, "--seed", "5", "--url", gateway.url, "--progress", "quiet")
    drawn = ("--min-position", "3") if positions != "all" else ()
    word, *flags = command.split()
    for name, more in (("wanted", ()), ("out", ("--ray",))):
        assert cli.main([word, *given, f"{tmp_path}/{name}.parquet", *flags, *fixed, *drawn, *more]) == 3
    assert pq.read_table(tmp_path / "out.parquet").equals(pq.read_table(tmp_path / "wanted.parquet"))


def test_going_on_with_texts(ray: Any, tmp_path: Path, gateway: FakeGateway) -> None:
    """Seeds stay those of a run without Ray, whichever parts are there; what is there is not counted again."""
    del ray
    texts = [f"text {k} " * (k % 5) for k in range(300)]
    table = pa.table({"text": texts, "label": [k % 3 for k in range(300)]})
    pq.write_table(table, tmp_path / "in.parquet", row_group_size=50)
    given, out = str(tmp_path / "in.parquet"), tmp_path / "out"
    fixed = ("--positions", "random:2", "--min-position", "3", "--seed", "5", "--where", "label < 2")
    fixed += ("--url", gateway.url, "--progress", "quiet", "--patience", "1")

    def fail_at_last(path: str, _body: Any) -> Any:
        """Once two parts are there; of two workers, whoever is to do the last of four comes after that."""
        enough = path == "explain" and len([*out.glob("part-*.parquet")]) > 1
        return failure("engine_unavailable", "gone") if enough else None

    gateway.trouble, gateway.ready = fail_at_last, False
    assert cli.main(["explain", given, str(out), *fixed, "--ray"]) == 1
    parts = sorted(out.glob("part-*.parquet"))
    assert len(parts) > 1
    parts[0].unlink()
    there = sum(len(set(pq.read_table(part)["input_row"].to_pylist())) for part in parts[1:])
    gateway.trouble, gateway.ready = lambda _path, _body: None, True
    gateway.seen.clear()
    assert cli.main(["explain", given, str(out), *fixed, "--ray"]) == 3
    tokenized = sum(len(body["texts"]) for path, body in gateway.seen if path == "tokenize")
    assert tokenized <= 2 * (sum(k % 3 < 2 for k in range(300)) - there), "each text that is left twice"
    assert cli.main(["explain", given, str(tmp_path / "wanted"), *fixed]) == 3
    assert pq.read_table(out).equals(pq.read_table(tmp_path / "wanted"))


def test_workers_are_killed(ray: Any, given: str, tmp_path: Path, gateway: FakeGateway) -> None:
    del ray
    assert nla(gateway, given, tmp_path / "wanted.parquet") == 0
    wanted = gateway.vectors
    held: list[Any] = []
    asked, killed = threading.Event(), threading.Event()

    def hold(_path: str, body: Any) -> None:
        """Keep one request, half way, until whoever sent it is killed."""
        if gateway.vectors >= wanted + 800 and not held:
            held.append(body)
            asked.set()
            killed.wait(60)

    def kill() -> None:
        try:
            asked.wait(120)
            for worker in workers():
                with suppress(psutil.NoSuchProcess):
                    worker.send_signal(signal.SIGKILL)
        finally:
            killed.set()

    gateway.trouble = hold
    killing = threading.Thread(target=kill, daemon=True)
    killing.start()
    assert nla(gateway, given, tmp_path / "out.parquet", "--ray") == 0
    killing.join()
    assert sum(body == held[0] for _, body in gateway.seen) > 1, "what was begun is done again"
    assert pq.read_table(tmp_path / "out.parquet").equals(pq.read_table(tmp_path / "wanted.parquet"))
    before = gateway.vectors
    assert nla(gateway, given, tmp_path / "out.parquet", "--ray") == 0
    assert gateway.vectors == before


def test_going_on(
    ray: Any, given: str, tmp_path: Path, gateway: FakeGateway, capsys: pytest.CaptureFixture[str]
) -> None:
    """Parts that are there are not done again, whichever they are."""
    del ray
    out = tmp_path / "out"
    gateway.trouble = lambda _path, _body: failure("engine_unavailable", "gone") if gateway.vectors > 900 else None
    gateway.ready = False
    assert nla(gateway, given, out, "--ray", "--patience", "1") == 1
    assert "no answer for 1 s (503 engine_unavailable: gone" in capsys.readouterr().err
    parts = sorted(out.glob("part-*.parquet"))
    assert 1 < len(parts) < COUNT / 150
    parts[0].unlink()
    kept = sum(pq.read_metadata(part).num_rows for part in parts[1:])
    gateway.trouble, gateway.ready = lambda _path, _body: None, True
    asked = gateway.vectors
    assert nla(gateway, given, out) == 2
    assert "was begun with ray" in capsys.readouterr().err
    assert nla(gateway, given, out, "--ray") == 0
    assert gateway.vectors - asked == COUNT - kept
    assert pq.read_table(out)["input_row"].to_pylist() == list(range(COUNT))


def test_rows_that_are_bad_or_left_out_change_no_seed(
    ray: Any, tmp_path: Path, gateway: FakeGateway, capsys: pytest.CaptureFixture[str]
) -> None:
    del ray
    vectors = [None if k % 97 == 3 else vector for k, vector in enumerate(VECTORS[:400])]
    table = pa.table({"activation_vector": vectors, "layer": np.arange(400) // 10 % 2})
    pq.write_table(table, tmp_path / "in.parquet")
    where = ("--where", "layer = 1")
    assert nla(gateway, tmp_path / "in.parquet", tmp_path / "out", "--ray", *where) == 3
    rows = pq.read_table(tmp_path / "out").to_pylist()
    assert [row["input_row"] for row in rows] == [k for k in range(400) if k // 10 % 2]
    good = [row for row in rows if row["error"] is None]
    assert len(good) < len(rows)
    assert [int(row["explanation"].split()[2]) for row in good] == [5 + row["input_row"] for row in good]
    assert nla(gateway, tmp_path / "in.parquet", tmp_path / "none", "--ray", "--limit", "3", *where) == 2
    assert "--ray cannot count the rows that --where keeps" in capsys.readouterr().err


@pytest.mark.parametrize("count", [0, 160])
def test_a_limit(ray: Any, given: str, tmp_path: Path, gateway: FakeGateway, count: int) -> None:
    del ray
    assert nla(gateway, given, tmp_path / "out.parquet", "--ray", "--limit", count) == 0
    assert nla(gateway, given, tmp_path / "wanted.parquet", "--limit", count) == 0
    assert pq.read_table(tmp_path / "out.parquet").equals(pq.read_table(tmp_path / "wanted.parquet"))


def test_what_a_worker_finds_wrong_is_told(ray: Any, given: str, tmp_path: Path, gateway: FakeGateway) -> None:
    del ray
    gateway.trouble = lambda _path, _body: failure("overloaded")
    job = Job(Verbalize(), [given], str(tmp_path / "out"), [gateway.url], patience=1, ray=True)
    with pytest.raises(StoppedError, match="no answer for 1 s"):
        run_job(job)


def test_an_interruption_leaves_no_process(given: str, tmp_path: Path, gateway: FakeGateway) -> None:
    """A cluster of the command's own."""
    command = [sys.executable, "-m", "nla_data", "verbalize", given, str(tmp_path / "out"), "--url", gateway.url]
    wrong = subprocess.run(
        [*command, "--ray", "--ray-address", "127.0.0.1:1"], capture_output=True, text=True, check=False
    )
    assert wrong.returncode == 2
    assert "nla: Ray at 127.0.0.1:1: Connection refused" in wrong.stderr
    gateway.trouble = lambda _path, _body: time.sleep(0.2)
    environment = os.environ | {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    environment |= {"RAY_memory_monitor_refresh_ms": "0"}
    environment.pop("RAY_ADDRESS", None)  # set while this process has a cluster
    with subprocess.Popen(
        [*command, "--ray", "--ray-address", "local"], env=environment, stderr=subprocess.PIPE, text=True
    ) as running:
        while not gateway.seen and running.poll() is None:
            time.sleep(0.05)
        started = psutil.Process(running.pid).children(recursive=True)
        running.send_signal(signal.SIGTERM)
        _, error = running.communicate(timeout=180)
    assert running.returncode == 1
    assert error.endswith("nla: stopped; the same command goes on where it was\n")
    assert "Traceback" not in error
    _, left = psutil.wait_procs(started, 120)
    assert left == []


def test_batches_of_ones_own(ray: Any, given: str, tmp_path: Path, gateway: FakeGateway) -> None:
    """However the rows come: seeds are the rows' own."""
    assert nla(gateway, given, tmp_path / "wanted.parquet") == 0
    wanted = pq.read_table(tmp_path / "wanted.parquet")
    table = pq.read_table(given).append_column("input_row", pa.array(range(COUNT)))
    table = pa.concat_tables([table.slice(950, 50), table.slice(0, 300)])
    told = ray.data.from_arrow(table).map_batches(
        VerbalizeBatches,
        fn_constructor_args=(Verbalize(seed=5, n=2, best=True), [gateway.url]),
        batch_format="pyarrow",
        batch_size=70,
        compute=ray.data.ActorPoolStrategy(size=1),
    )
    found = pa.concat_tables(ray.get(told.to_arrow_refs())).sort_by("input_row")
    assert found.equals(pa.concat_tables([wanted.slice(0, 300), wanted.slice(950, 50)]))
    with pytest.raises(Exception, match="the task needs a seed"):
        VerbalizeBatches(Verbalize(), [gateway.url])
