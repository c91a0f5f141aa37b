"""Runs of `nla` from and to an object storage: a local server that speaks S3."""

import io
import pickle
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pyarrow import fs

from nla_data import cli
from nla_data.api import Job, StoppedError, UsageError, Verbalize, run_job
from nla_data.reading import files
from nla_data.writing import lease, parts
from nla_data.writing.store import Store
from tests.data.gateway import D, FakeGateway, failure, text_of

COUNT: Final = 300
VECTORS: Final = np.random.default_rng(0).standard_normal((COUNT, D)).astype(np.float32)


def parquet(vectors: Any) -> bytes:
    made = io.BytesIO()
    pq.write_table(pa.table({"activation_vector": list(vectors)}), made, row_group_size=50)
    return made.getvalue()


def npy(vectors: Any) -> bytes:
    made = io.BytesIO()
    np.save(made, vectors)
    return made.getvalue()


def put(bucket: fs.FileSystem, path: str, content: bytes) -> None:
    with bucket.open_output_stream(f"bucket/{path}") as stream:
        stream.write(content)


def objects(bucket: fs.FileSystem, folder: str = "bucket/out") -> list[str]:
    infos = bucket.get_file_info(fs.FileSelector(folder, recursive=True, allow_not_found=True))
    return sorted(info.path for info in infos if info.is_file)


def explanations(bucket: fs.FileSystem, path: str) -> list[str]:
    told: list[str] = pq.read_table(path, filesystem=bucket)["explanation"].to_pylist()
    return [text.split()[0] for text in told]


WANTED: Final = [text_of(vector) for vector in VECTORS]


def nla(gateway: FakeGateway, *arguments: str) -> int:
    return cli.main(
        ["verbalize", *arguments, "--url", gateway.url, "--progress", "quiet", "--seed", "0", "--dtype", "float32"]
    )


def test_a_folder_to_a_folder(bucket: fs.FileSystem, query: str, gateway: FakeGateway) -> None:
    put(bucket, "in/a/b.parquet", parquet(VECTORS[:200]))
    put(bucket, "in/c.parquet", parquet(VECTORS[200:]))
    put(bucket, "in/notes.txt", b"not read")
    given, out = f"s3://bucket/in/{query}", f"s3://bucket/out/{query}"
    assert nla(gateway, given, out) == 0
    assert objects(bucket) == ["bucket/out/_nla.json", "bucket/out/part-000000.parquet"]
    assert explanations(bucket, "bucket/out") == WANTED
    asked = gateway.vectors
    assert nla(gateway, given, out) == 0
    assert gateway.vectors == asked


def test_texts_to_vectors_with_their_sidecar(bucket: fs.FileSystem, query: str, gateway: FakeGateway) -> None:
    made = io.BytesIO()
    pq.write_table(pa.table({"text": [f"text {k}" for k in range(150)]}), made)
    put(bucket, "texts/in.parquet", made.getvalue())
    given, server = f"s3://bucket/texts/in.parquet{query}", ("--url", gateway.url, "--progress", "quiet")
    assert cli.main(["extract", given, f"s3://bucket/out/v.parquet{query}", *server]) == 0
    assert objects(bucket) == ["bucket/out/v.parquet", "bucket/out/v.parquet.nla_meta.yaml"]
    assert pq.read_table("bucket/out/v.parquet", filesystem=bucket)["n_raw_tokens"][100].as_py() == 9


def test_a_glob_to_one_file_by_the_environment(
    bucket: fs.FileSystem, endpoint: str, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{endpoint}")
    put(bucket, "in/part-1.npy", npy(VECTORS[:100]))
    put(bucket, "in/part-2.npy", npy(VECTORS[100:]))
    put(bucket, "in/part-10.npy", npy(VECTORS))
    assert nla(gateway, "s3://bucket/in/part-?.npy", "s3://bucket/out/all.parquet") == 0
    assert objects(bucket) == ["bucket/out/all.parquet"]
    assert explanations(bucket, "bucket/out/all.parquet") == WANTED


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("in/part-?.npy", ["part-1.npy", "part-2.npy"]),
        ("in/part-[2-9].npy", ["part-2.npy"]),
        ("in/*.npy", ["part-1.npy", "part-10.npy", "part-2.npy", "what? [1].npy"]),
        ("**/part-??.npy", ["part-10.npy"]),
        ("in/what? [1].npy", ["what? [1].npy"]),
        ("in/what%3F%20%5B1%5D.npy", ["what? [1].npy"]),
        ("in/part-1.npy", ["part-1.npy"]),
    ],
)
def test_globs_and_queries(bucket: fs.FileSystem, query: str, pattern: str, found: list[str]) -> None:
    for name in ("part-1.npy", "part-2.npy", "part-10.npy", "what? [1].npy"):
        put(bucket, f"in/{name}", b"x")
    assert [file.path.rpartition("/")[2] for file in files.find([f"s3://bucket/{pattern}{query}"])] == found


@pytest.mark.parametrize("out", ["out", "out/all.parquet"])
def test_going_on_after_an_interruption(
    bucket: fs.FileSystem, query: str, gateway: FakeGateway, out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "PART_ROWS", 64)
    put(bucket, "in.npy", npy(VECTORS))
    arguments = (f"s3://bucket/in.npy{query}", f"s3://bucket/{out}{query}", "--patience", "0.5")
    gateway.trouble = lambda _path, _body: failure("engine_unavailable") if gateway.vectors >= 3 * 64 else None
    gateway.ready = False
    assert nla(gateway, *arguments) == 1
    written = [path for path in objects(bucket, "bucket") if "part-" in path]
    kept = sum(pq.read_metadata(path, filesystem=bucket).num_rows for path in written)
    assert 0 < kept <= 3 * 64  # answers come in any order, and what comes after a gap is not written
    assert "bucket/out/all.parquet" not in objects(bucket)
    gateway.trouble, gateway.ready = lambda _path, _body: None, True
    asked = gateway.vectors
    assert nla(gateway, *arguments) == 0
    assert gateway.vectors - asked == COUNT - kept
    assert explanations(bucket, f"bucket/{out}") == WANTED


@pytest.mark.parametrize("out", ["out", "out/all.parquet"])
def test_what_fails_while_it_is_made_leaves_no_object(bucket: fs.FileSystem, query: str, out: str) -> None:
    """Not even half of one: the stream of an upload would put what it has when it is closed by an exception."""
    store = Store(f"s3://bucket/{out}{query}")
    schema = pa.schema([("a", pa.int64())])
    before = objects(bucket)

    def fail(stream: Any) -> None:
        stream.write(b"x" * 1000)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store._put(f"{store.folder}/part-000000.parquet", fail)
    assert objects(bucket) == before
    if store.file:
        store.write_part(0, pa.table({"a": [1, 2]}))
        store.write("part-000001.parquet", b"no parquet")
        before = objects(bucket)
        with pytest.raises(Exception, match="cannot be written"):
            store.merge(schema, 2)
        assert objects(bucket) == before


def test_no_such_bucket(
    bucket: fs.FileSystem, query: str, gateway: FakeGateway, capsys: pytest.CaptureFixture[str]
) -> None:
    put(bucket, "in.npy", npy(VECTORS))
    good = f"s3://bucket/in.npy{query}"
    for arguments, code, message in (
        ((f"s3://nowhere/in/{query}", f"s3://bucket/out{query}"), 2, "there is no such file or folder"),
        ((f"s3://nowhere/*.npy{query}", f"s3://bucket/out{query}"), 2, "no file there"),
        ((good, f"s3://nowhere/out{query}"), 1, "The specified bucket does not exist"),
        ((good, "s5://bucket/out"), 2, "s5://bucket/out: "),
    ):
        assert nla(gateway, *arguments) == code
        error = capsys.readouterr().err
        assert message in error
        assert error.startswith("nla: ")
        assert error.count("\n") == 1
    assert gateway.seen == []


def test_wrong_keys(
    bucket: fs.FileSystem, endpoint: str, gateway: FakeGateway, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    query = f"?endpoint_override={endpoint}&scheme=http"
    put(bucket, "in.npy", npy(VECTORS))
    np.save(tmp_path / "in.npy", VECTORS)
    auth = f"http://{endpoint}/moto-api/reset-auth"
    httpx.post(auth, content=b"0", timeout=60).raise_for_status()  # from now on keys count
    try:
        for given, code in ((f"s3://bucket/in.npy{query}", 2), (f"s3://bucket/*{query}", 2), (tmp_path / "in.npy", 1)):
            assert nla(gateway, str(given), f"s3://bucket/out{query}") == code
            error = capsys.readouterr().err
            assert "ACCESS_DENIED" in error or "INVALID_ACCESS_KEY_ID" in error
            assert error.count("\n") == 1
    finally:
        httpx.post(auth, content=b"inf", timeout=60).raise_for_status()


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("out", ["out", "out/all.parquet"])
def test_of_two_runs_at_once_one_goes(
    bucket: fs.FileSystem, query: str, gateway: FakeGateway, out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    all_there, look = threading.Barrier(3), lease.Lease._wait_for_others

    def look_together(self: lease.Lease, stopped: Callable[[], bool]) -> None:
        all_there.wait(60)
        look(self, stopped)

    monkeypatch.setattr(lease.Lease, "_wait_for_others", look_together)
    # The first waits for the others to go, however late they see it: no time passes after which it would go itself.
    monkeypatch.setattr(lease, "time", SimpleNamespace(**vars(time) | {"monotonic": lambda: 0.0}))
    put(bucket, "in.npy", npy(np.tile(VECTORS, (5, 1))))
    task = Verbalize(seed=0, dtype="float32")
    given, place = f"s3://bucket/in.npy{query}", f"s3://bucket/{out}{query}"

    def run() -> str:
        try:
            return str(run_job(Job(task, [given], place, [gateway.url])).totals.rows)
        except UsageError as error:
            return str(error)

    with ThreadPoolExecutor(3) as threads:
        told = sorted(thread.result() for thread in [threads.submit(run) for _ in range(3)])
    assert told[0] == str(5 * COUNT)
    assert all("another run is writing it" in text for text in told[1:])
    assert explanations(bucket, f"bucket/{out}") == 5 * WANTED
    assert [path for path in objects(bucket, "bucket") if "_claim" in path] == []


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("claimed_at", [0, 10**19])
def test_a_run_that_comes_while_another_is_at_work_goes(
    bucket: fs.FileSystem, query: str, claimed_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where its claim has an earlier name: its machine's clock is slow, or it was long about it."""
    with Store(f"s3://bucket/out{query}").locked():
        monkeypatch.setattr(lease, "time", SimpleNamespace(**vars(time) | {"time_ns": lambda: claimed_at}))
        with pytest.raises(UsageError, match="another run is writing it"), Store(f"s3://bucket/out{query}").locked():
            pass
        assert len(objects(bucket)) == 1
    assert objects(bucket) == []


@pytest.mark.usefixtures("quick")
def test_the_claim_of_a_killed_run_ends(
    bucket: fs.FileSystem, query: str, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(bucket, "in.npy", npy(VECTORS))
    monkeypatch.setattr(lease, "LIFETIME_S", 2.0)
    began = time.monotonic()
    put(bucket, f"out/{lease.CLAIM}00000000000000000001-dead", b"a host that is gone")
    assert nla(gateway, f"s3://bucket/in.npy{query}", f"s3://bucket/out/{query}") == 0
    assert time.monotonic() - began > 2
    assert objects(bucket) == ["bucket/out/_nla.json", "bucket/out/part-000000.parquet"]


@pytest.mark.usefixtures("quick")
def test_a_run_whose_claim_was_taken_away_writes_no_more(bucket: fs.FileSystem, query: str) -> None:
    """As one that was asleep for long, and wakes while another has gone on."""
    store = Store(f"s3://bucket/out{query}")
    with store.locked():
        store.write_part(0, pa.table({"a": [1]}))
        (claim,) = [path for path in objects(bucket) if lease.CLAIM in path]
        bucket.delete_file(claim)
        with pytest.raises(StoppedError, match="another run may have taken over"):
            store.write_part(1, pa.table({"a": [1]}))
    assert objects(bucket) == ["bucket/out/part-000000.parquet"]


@pytest.mark.usefixtures("quick")
def test_a_claim_that_was_taken_away_is_not_renewed(bucket: fs.FileSystem, query: str) -> None:
    held = lease.Lease(bucket, "bucket/out", "out", Store(f"s3://bucket/out{query}")._write)
    with held.held(lambda: False) as claim:
        claim.check()
        with held._renewing:  # not between a look at it and its writing
            bucket.delete_file(claim.path)
        held._renew()
        with pytest.raises(StoppedError, match="another run may have taken over"):
            claim.check()
    assert objects(bucket) == []


def test_workers_write_while_the_claim_of_their_run_is_there(bucket: fs.FileSystem, query: str) -> None:
    """Not after it: another run may have gone on, which took this one for dead."""
    store = Store(f"s3://bucket/out{query}")
    with store.locked():
        worker = pickle.loads(pickle.dumps(store))  # noqa: S301 - our own bytes
        worker.write_part(0, pa.table({"a": [1]}))
    with pytest.raises(StoppedError, match="another run may have taken over"):
        worker.write_part(1, pa.table({"a": [1]}))
    assert objects(bucket) == ["bucket/out/part-000000.parquet"]


def test_torch_files(
    bucket: fs.FileSystem, query: str, gateway: FakeGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a local file of the same name."""
    made = io.BytesIO()
    torch.save(torch.from_numpy(VECTORS), made)
    put(bucket, "in.pt", made.getvalue())
    (tmp_path / "bucket").mkdir()
    torch.save(torch.zeros(3, D), tmp_path / "bucket" / "in.pt")
    monkeypatch.chdir(tmp_path)
    assert nla(gateway, f"s3://bucket/in.pt{query}", f"s3://bucket/out{query}") == 0
    assert explanations(bucket, "bucket/out") == WANTED


def test_arrays_by_columns_and_hive_folders(bucket: fs.FileSystem, query: str, gateway: FakeGateway) -> None:
    put(bucket, "in/layer=20/a.npy", npy(np.asfortranarray(VECTORS.astype(">f4"))))
    put(bucket, "in/layer=21/b.npy", npy(VECTORS))
    assert nla(gateway, f"s3://bucket/in{query}", f"s3://bucket/out{query}", "--where", "layer = 20") == 0
    assert explanations(bucket, "bucket/out") == WANTED
    assert set(pq.read_table("bucket/out", filesystem=bucket)["layer"].to_pylist()) == {20}
