"""The Python interface takes what programs have in hand: paths, one thing without a list, numbers of numpy."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nla_data.api import Explain, Job, Reconstruct, ScorePairs, UsageError, Verbalize, run_job
from nla_data.report.build import write_report
from tests.data.gateway import LIMITS, D, FakeGateway, info

VECTORS = np.random.default_rng(0).standard_normal((20, D)).astype(np.float32)


@pytest.fixture
def given(tmp_path: Path) -> Path:
    path = tmp_path / "in.parquet"
    pq.write_table(pa.table({"activation_vector": list(VECTORS), "token": ["t"] * 20, "layer": [20] * 20}), path)
    return path


@pytest.mark.parametrize("form", [lambda path: path, str, lambda path: [path], lambda path: (str(path),)])
def test_paths_alone_and_in_lists(tmp_path: Path, given: Path, gateway: FakeGateway, form: Any) -> None:
    job = Job(Verbalize(score=True, seed=1), form(given), tmp_path / "out.parquet", gateway.url, drop="token")  # type: ignore[arg-type]
    assert run_job(job).totals.rows == 20
    assert run_job(job).was_finished
    assert "token" not in pq.read_schema(tmp_path / "out.parquet").names
    page = write_report(tmp_path / "out.parquet", tmp_path / "page.html", "layer")
    assert "By layer" in page.read_text()


def test_numbers_of_numpy(tmp_path: Path, given: Path, gateway: FakeGateway) -> None:
    task = Verbalize(
        n=np.int8(3),  # type: ignore[arg-type]
        temperature=np.float32(0.5),  # type: ignore[arg-type]
        top_p=np.float64(1),
        max_tokens=np.uint16(50),  # type: ignore[arg-type]
        seed=np.uint8(250),  # type: ignore[arg-type]
        score=np.bool_(True),  # type: ignore[arg-type]
    )
    out = tmp_path / "out"
    job = Job(task, [str(given)], str(out), [gateway.url], limit=np.int64(15))  # type: ignore[arg-type]
    assert run_job(job).totals.rows == 15
    settings = json.loads((out / "_nla.json").read_text())["settings"]
    assert (settings["n"], settings["seed"], settings["score"], settings["limit"]) == (3, 250, True, 15)
    assert {body["seed"] for _, body in gateway.seen} == {250}


def test_other_tasks_and_no_output(tmp_path: Path, given: Path, gateway: FakeGateway) -> None:
    run_job(Job(Verbalize(), given, tmp_path / "told", gateway.url))  # type: ignore[arg-type]
    run_job(Job(Reconstruct(), tmp_path / "told", tmp_path / "rebuilt", gateway.url))  # type: ignore[arg-type]
    assert pq.read_table(tmp_path / "rebuilt").num_rows == 20
    pq.write_table(pa.table({"activation_vector": list(VECTORS), "explanation": ["t"] * 20}), tmp_path / "p.parquet")
    assert run_job(Job(ScorePairs(), tmp_path / "p.parquet", None, gateway.url)).totals.scored == 20  # type: ignore[arg-type]


def test_a_vector_that_bfloat16_makes_zero_spoils_no_other(tmp_path: Path, gateway: FakeGateway) -> None:
    vectors = VECTORS.copy()
    vectors[7] = 1e-45
    pq.write_table(pa.table({"activation_vector": list(vectors)}), tmp_path / "in.parquet")
    task = Verbalize(dtype="bfloat16")
    totals = run_job(Job(task, str(tmp_path / "in.parquet"), str(tmp_path / "out"), [gateway.url])).totals
    assert (totals.rows, totals.failed) == (20, 1)
    told = pq.read_table(tmp_path / "out").column("error").to_pylist()
    assert "all zero, as bfloat16" in told.pop(7)
    assert told == [None] * 19


@pytest.mark.parametrize(("limit", "wanted"), [(100, 100), (1024, 200)])
def test_texts_are_as_long_as_usual_if_the_server_lets_them(
    tmp_path: Path, gateway: FakeGateway, limit: int, wanted: int
) -> None:
    """As where `max_tokens` is left out over HTTP; and what was meant is kept, however that changes."""
    gateway.served = info() | {"limits": LIMITS | {"max_tokens": limit}}
    pq.write_table(pa.table({"activation_vector": list(VECTORS), "text": ["a text"] * 20}), tmp_path / "in.parquet")
    for task in (Verbalize(), Explain()):
        run_job(Job(task, str(tmp_path / "in.parquet"), str(tmp_path / task.name), [gateway.url]))
        (told,) = set(pq.read_table(tmp_path / task.name)["settings"].to_pylist())
        assert json.loads(told)["max_tokens"] == wanted


def test_what_was_left_to_the_server_stays_as_it_was_begun(tmp_path: Path, gateway: FakeGateway) -> None:
    """Whatever another start of the server lets or computes in, where nobody has asked for anything."""
    pq.write_table(pa.table({"activation_vector": list(VECTORS)}), tmp_path / "in.parquet")

    def go(**asked: Any) -> set[tuple[int, str]]:
        task = Verbalize(**asked)
        run_job(Job(task, str(tmp_path / "in.parquet"), str(tmp_path / "out"), [gateway.url]))
        settings = map(json.loads, pq.read_table(tmp_path / "out")["settings"].to_pylist())
        return {(one["max_tokens"], one["dtype"]) for one in settings}

    gateway.served = info() | {"limits": LIMITS | {"max_tokens": 100}}
    assert go() == {(100, "float32")}
    gateway.served = info()
    assert go() == {(100, "float32")}
    for asked, difference in (({"max_tokens": 50}, "max_tokens 100, now 50"), ({"dtype": "bfloat16"}, "dtype float32")):
        with pytest.raises(UsageError, match=f"begun with {difference}"):
            go(**asked)
