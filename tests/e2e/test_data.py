"""The command `nla` against the real stack: what it writes is what the clients get."""

import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from nla_client import NLAClient, NLACritic
from tests.stack import Stack


def nla(*arguments: Any, expect: int = 0) -> str:
    command = [sys.executable, "-W", "error", "-m", "nla_data", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == expect, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory, toy_vectors: NDArray[np.float32]) -> Path:
    path = tmp_path_factory.mktemp("data") / "in.parquet"
    table = pa.table({"id": np.arange(len(toy_vectors)), "activation_vector": list(toy_vectors)})
    pq.write_table(table, path, row_group_size=20)
    return path


def test_greedy_texts_and_scores_are_those_of_the_client(
    toy: Stack, given: Path, tmp_path: Path, toy_vectors: NDArray[np.float32]
) -> None:
    out = tmp_path / "out.parquet"
    nla("verbalize", given, out, "--url", toy.url, "--temperature", 0, "--score", "--progress", "quiet")
    rows = pq.read_table(out).to_pylist()
    with NLAClient(toy.url) as client:
        told = client.verbalize(toy_vectors, temperature=0, score=True)
    assert [row["explanation"] for row in rows] == [str(one) for one in told]
    assert [row["id"] for row in rows] == list(range(len(toy_vectors)))
    for row, one in zip(rows, told, strict=True):
        assert one.score is not None
        assert row["fve"] == pytest.approx(one.score.fve, abs=1e-3)
        assert row["model"] == "toy-verbalizer"


def test_best_of_many_is_seeded_by_row(
    toy: Stack, given: Path, tmp_path: Path, toy_vectors: NDArray[np.float32]
) -> None:
    best = ("--n", 4, "--best", "--seed", 3, "--temperature", "1.5", "--progress", "quiet")
    nla("verbalize", given, tmp_path / "out", "--url", toy.url, *best)
    rows = pq.read_table(tmp_path / "out").to_pylist()
    with NLAClient(toy.url) as client:
        told = client.verbalize(toy_vectors, n=4, best=True, seed=3, temperature=1.5)
    same = [row["explanation"] == str(one) for row, one in zip(rows, told, strict=True)]
    assert sum(same) >= len(same) - 1  # two samples may score alike to the last digits
    for row in rows:
        mses = [sample["mse"] for sample in row["samples"]]
        assert len(mses) == 4
        assert row["mse"] == min(mses)
        assert row["mse_mean"] == pytest.approx(np.mean(mses))


def test_reconstruct_and_score(toy: Stack, given: Path, tmp_path: Path, toy_vectors: NDArray[np.float32]) -> None:
    told, rebuilt, scored = (tmp_path / name for name in ("told.parquet", "rebuilt.parquet", "scored"))
    quiet = ("--url", toy.url, "--progress", "quiet")
    nla("verbalize", given, told, "--keep-vectors", "--temperature", 0, *quiet)
    nla("reconstruct", told, rebuilt, "--dtype", "float32", *quiet)
    texts = pq.read_table(told)["explanation"].to_pylist()
    with NLACritic(toy.url) as critic:
        vectors, scores = critic.reconstruct(texts, dtype="float32"), critic.score(texts, toy_vectors)
    found = np.array(pq.read_table(rebuilt)["reconstruction"].to_pylist(), np.float32)
    np.testing.assert_allclose(found, vectors, rtol=1e-3, atol=1e-3 * np.abs(vectors).max())
    drop = [part for name in ("mse", "cosine", "fve") for part in ("--drop", name)]
    nla("score", told, scored, *drop, *quiet)
    fves = pq.read_table(scored)["fve"].to_pylist()
    assert fves == pytest.approx([score.fve for score in scores], abs=1e-3)
    printed = nla("score", told, *drop, "--url", toy.url)
    assert f"mean fve {np.mean(fves):.3f}" in printed


def test_info_and_try(toy: Stack, given: Path) -> None:
    shown = nla("info", "--url", toy.url)
    assert "toy-verbalizer" in shown
    assert "output of block 1" in shown
    assert "source │ not served" in re.sub(" +", " ", shown)
    assert "in.parquet, row 3" in nla("try", given, "--row", 3, "--n", 2, "--url", toy.url).replace("\n", "")
    nla("try", "--url", toy.url, expect=2)  # the demo's vectors are wider


def test_try_without_a_file(demo: Stack) -> None:
    with (files("nla_launch") / "demo" / "vectors.npz").open("rb") as stream:
        context = str(np.load(stream)["contexts"][0])
    told, _, read = nla("try", "--url", demo.url, "--seed", 0, "--temperature", 0).partition("read at the end of:")
    assert "Kind of text: " in told
    assert read.split() == context.split()
