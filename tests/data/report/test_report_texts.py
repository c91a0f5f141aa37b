"""`nla report` of what `nla explain` wrote: a row a position, its vectors kept or not."""

import html
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from nla_data import cli
from tests.data.gateway import FakeGateway
from tests.data.test_run import nla
from tests.data.test_texts import save

TEXTS = [f"text {k} " * (k % 5) for k in range(60)]


def explain(gateway: FakeGateway, given: str, out: Path, *flags: str) -> Path:
    fixed = ("--url", gateway.url, "--positions=0,-1", "--score", "--seed", "1")
    assert nla("explain", given, out, *fixed, *flags) in {0, 3}
    return out


def page(*outs: Path) -> str:
    assert cli.main(["report", *map(str, outs)]) == 0
    against = f"_against_{outs[1].stem}" if outs[1:] else ""
    return html.unescape(outs[0].with_name(f"{outs[0].stem}{against}.html").read_text("utf-8"))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_with_its_vectors(tmp_path: Path, gateway: FakeGateway, dtype: str) -> None:
    flags = ("--keep-vectors", *(("--vectors", dtype) if dtype != "float32" else ()))
    out = explain(gateway, save(tmp_path / "in.parquet", TEXTS), tmp_path / "out.parquet", *flags)
    told = page(out)
    assert f"nla explain IN OUT --positions 0,-1 --seed 1 --score {' '.join(flags)}" in told
    assert "Texts per second" in told
    assert "cannot be read" not in told
    table = pq.read_table(out)
    scored = np.array(table["mse"].to_pylist(), float)
    assert f"{np.nanmean(scored):.4f}" in told
    assert f'<dd dir="auto">{table.num_rows:,}</dd>' in told


def test_without_them_it_says_how_to_have_them(tmp_path: Path, gateway: FakeGateway) -> None:
    told = page(explain(gateway, save(tmp_path / "in.parquet", TEXTS), tmp_path / "out.parquet"))
    assert "The run has kept no vectors: nla explain writes them with --keep-vectors." in told


def test_two_runs_are_matched_by_row_and_position(tmp_path: Path, gateway: FakeGateway) -> None:
    given = save(tmp_path / "in.parquet", TEXTS)
    one = explain(gateway, given, tmp_path / "a.parquet")
    other = explain(gateway, given, tmp_path / "b.parquet", "--temperature", "0")
    told = page(one, other)
    assert "input_row and position" in told
    assert "temperature" in told


def test_against_a_run_on_vectors_that_were_extracted(tmp_path: Path, gateway: FakeGateway) -> None:
    given = save(tmp_path / "in.parquet", TEXTS)
    one = explain(gateway, given, tmp_path / "a.parquet", "--keep-vectors")
    server = ("--url", gateway.url)
    assert nla("extract", given, tmp_path / "vectors.parquet", "--positions=0,-1", *server) == 3
    assert nla("verbalize", tmp_path / "vectors.parquet", tmp_path / "b.parquet", "--score", *server) == 3
    assert "doc_id and position" in page(one, tmp_path / "b.parquet")
