"""Controls on the page: by the vectors that a server rebuilds, and without one."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nla_data import cli
from nla_data.api import Verbalize
from nla_data.report import controls, likeness, originals, rows, sample
from nla_data.report.results import Results
from tests.data.gateway import D, FakeGateway, fake_gateway, info
from tests.data.outputs import write
from tests.data.report.test_report import page

COUNT = 90
N = 3


def made(count: int = COUNT) -> np.ndarray:
    """Vectors whose first element is their number, which the fake server's texts begin with; so they are told apart."""
    vectors = np.random.default_rng(0).standard_normal((count, D)) * 60
    vectors[:, 0] = np.arange(count)
    return vectors.astype(np.float32)


def rebuilt(text: str) -> np.ndarray:
    """Near the vector that the text is of, otherwise for each sample; of an empty text always the same."""
    if not text:
        return np.linspace(1, 2, D).astype(np.float32)
    number, sample_number = int(float(text.split(maxsplit=1)[0])), int(text.rsplit(maxsplit=1)[-1])
    noise = np.random.default_rng([number, sample_number]).standard_normal(D) * 70
    return (made()[number] + noise).astype(np.float32)


@dataclass
class Explained:
    out: Path
    gateway: FakeGateway


@pytest.fixture(scope="module")
def explained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Explained]:
    """An output of a real run at the fake server, which knows how to rebuild its texts."""
    folder = tmp_path_factory.mktemp("explained")
    pq.write_table(pa.table({"activation_vector": list(made())}), folder / "in.parquet")
    with fake_gateway() as gateway:
        gateway.rebuild = rebuilt
        arguments = ["verbalize", str(folder / "in.parquet"), str(folder / "out"), "--best", "--n", str(N)]
        assert cli.main([*arguments, "--seed", "0", "--url", gateway.url, "--progress", "quiet"]) == 0
        yield Explained(folder / "out", gateway)


def given(out: Path, chosen: np.ndarray) -> controls.Given:
    results = Results.open(str(out))
    read = rows.read(results, [])
    kept = sample.Kept(originals.pieces(results, read), chosen)
    for _ in kept():
        pass
    return controls.Given(
        read.take(chosen), sample.Texts.read(results, read, chosen), likeness.unit(kept.vectors), None, 1.0
    )


class Local:
    """Rebuilds without a server."""

    def units(self, texts: Any) -> np.ndarray:
        return likeness.unit(np.stack([rebuilt(text) for text in texts]))


def test_all_of_them_are_those_of_plain_numpy(explained: Explained) -> None:
    chosen = sample.choose(COUNT)
    found = controls.controls(given(explained.out, chosen), Local())  # type: ignore[arg-type]
    # The second sample is the best by the fake server's scores.
    own = [rebuilt(f"{number} 1").astype(float) for number in chosen]
    vectors = [made()[number].astype(float) for number in chosen]
    every = [[rebuilt(f"{number} {k}").astype(float) for k in range(N)] for number in chosen]

    def cosine(one: np.ndarray, other: np.ndarray) -> float:
        return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))

    shuffled = np.mean([cosine(own[k], vectors[(k + 1) % COUNT]) for k in range(COUNT)])
    empty = np.mean([cosine(rebuilt("").astype(float), vector) for vector in vectors])
    nearest = np.mean([max(cosine(v, w) for w in vectors if w is not v) for v in vectors])
    lots = [range(0, 40), range(40, 80)]
    hits = [max(lot, key=lambda j: cosine(own[k], vectors[j])) == k for lot in lots for k in lot]
    pairs = [(0, 1), (0, 2), (1, 2)]
    agree = np.mean([cosine(row[a], row[b]) for row in every for a, b in pairs])
    chance = np.mean([cosine(own[k], own[(k + 1) % COUNT]) for k in range(COUNT)])
    for figures, expected in ((found.shuffled, shuffled), (found.empty, empty), (found.nearest, nearest)):
        assert figures is not None
        assert figures.rows == COUNT
        assert figures.cosine is not None
        assert figures.cosine.value == pytest.approx(expected)
        assert figures.mse is not None
        assert figures.mse.value == pytest.approx(2 - 2 * expected)
        assert figures.fve_served is not None
        assert figures.fve_served.value == pytest.approx(1 - (2 - 2 * expected) / 1.0)
    assert found.retrieval is not None
    assert found.retrieval.found is not None
    assert (found.retrieval.found.value, found.retrieval.chance, found.retrieval.rows) == (np.mean(hits), 1 / 40, 80)
    assert 0.1 < np.mean(hits) < 1
    assert found.rebuilt is not None
    assert found.rebuilt.found is not None
    assert (found.rebuilt.found.value, found.rebuilt.chance) == (pytest.approx(agree), pytest.approx(chance))
    assert found.worded is not None
    assert found.worded.found is not None
    assert found.worded.chance is not None
    assert found.worded.found.value > found.worded.chance


def test_few_texts_at_once_change_nothing(explained: Explained, monkeypatch: pytest.MonkeyPatch) -> None:
    told = given(explained.out, sample.choose(COUNT))
    before = controls.controls(told, Local())  # type: ignore[arg-type]
    monkeypatch.setattr(controls, "_AT_ONCE", 7)
    assert controls.controls(told, Local()) == before  # type: ignore[arg-type]


def test_the_page_asks_the_server(explained: Explained) -> None:
    found = controls.controls(given(explained.out, sample.choose(COUNT)), Local())  # type: ignore[arg-type]
    explained.gateway.seen.clear()
    html = page(explained.out, "--url", explained.gateway.url)
    assert f"all {COUNT} scored rows" in html
    assert "needs the reconstructor" not in html
    for figures in (found.shuffled, found.empty, found.nearest):
        assert figures is not None
        assert figures.mse is not None
        assert f"<td>{figures.mse.value:.4f}" in html
    for alike in (found.retrieval, found.rebuilt, found.worded):
        assert alike is not None
        assert alike.found is not None
        assert f"<td>{alike.found.value:.4f}" in html
    for formula in ("cos(R(tᵢ), vᵢ₊₁)", "cos(R(&#34;&#34;), vᵢ)", "maxⱼ cos(vᵢ, vⱼ)", "1/40", "cos(R(tᵢₐ), R(tᵢᵦ))"):
        assert formula in html.replace('cos(R(""), vᵢ)', "cos(R(&#34;&#34;), vᵢ)")
    sent = [text for path, body in explained.gateway.seen if path == "reconstruct" for text in body["texts"]]
    assert {path for path, _ in explained.gateway.seen} == {"reconstruct"}
    assert len(sent) == COUNT + 1 + COUNT * N


def test_without_a_server_the_page_says_how_to_have_the_rest(explained: Explained) -> None:
    html = page(explained.out)
    assert html.count("needs the reconstructor: <code>nla report OUT --url http://HOST:PORT</code>") == 4
    assert "Agreement of the samples, by their words" in html
    nearest = html.partition("One that names the nearest other vector")[2].partition("</tr>")[0]
    assert nearest.count("<td>") == 5


def test_a_sample_of_many_rows(explained: Explained, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample, "SIZE", 50)
    monkeypatch.setattr(sample, "MAX_SAMPLES", 30)
    explained.gateway.seen.clear()
    html = page(explained.out, "--url", explained.gateway.url)
    assert f"50 of the {COUNT} scored rows, drawn with a fixed seed" in html
    sent = [text for path, body in explained.gateway.seen if path == "reconstruct" for text in body["texts"]]
    assert len(sent) == 50 + 1 + 30
    retrieval = html.partition("Retrieval of a vector by its text")[2].partition("</tr>")[0]
    assert retrieval.rstrip().endswith("<td>0.0250</td><td>40</td>")


def test_chosen_rows_are_a_seeded_permutation() -> None:
    assert sorted(sample.choose(5).tolist()) == [0, 1, 2, 3, 4]
    many = sample.choose(100_000)
    assert len(set(many.tolist())) == sample.SIZE
    assert many.tolist() == sample.choose(100_000).tolist()


def test_vectors_and_texts_come_in_the_order_of_the_choice(explained: Explained) -> None:
    chosen = np.array([70, 3, 41])
    results = Results.open(str(explained.out))
    read = rows.read(results, [])
    kept = sample.Kept(originals.pieces(results, read), chosen)
    for _ in kept():
        pass
    assert kept.vectors.tolist() == made()[chosen].tolist()
    texts = sample.Texts.read(results, read, chosen)
    assert [text.split()[0] for text in texts.chosen] == ["70", "3", "41"]
    assert [[it.split()[0] for it in row] for row in texts.samples] == [["70"] * N, ["3"] * N, ["41"] * N]


def test_samples_without_a_score_are_not_asked_of_the_reconstructor(explained: Explained, tmp_path: Path) -> None:
    """It has refused them before."""
    out = shutil.copytree(explained.out, tmp_path / "out")
    for part in out.glob("*.parquet"):
        table = pq.read_table(part)
        samples = table["samples"].to_pylist()
        for row in samples:
            row[1]["mse"] = None
        changed = pa.array(samples, table.schema.field("samples").type)
        pq.write_table(table.set_column(table.schema.get_field_index("samples"), "samples", changed), part)
    results = Results.open(str(out))
    texts = sample.Texts.read(results, rows.read(results, []), np.array([70, 3]))
    assert [[it.rsplit(maxsplit=1)[-1] for it in row] for row in texts.samples] == [["0", "2"]] * 2


@pytest.mark.parametrize(
    ("served", "words"),
    [
        (info("another"), "another reconstructor than the run had: reconstructor fake-ar, now another-ar"),
        (info() | {"reconstructor": None}, "serves no reconstructor"),
    ],
)
def test_a_server_that_is_not_the_runs(
    explained: Explained, capsys: pytest.CaptureFixture[str], served: dict[str, Any], words: str
) -> None:
    with fake_gateway() as other:
        other.served = served
        assert cli.main(["report", str(explained.out), "--url", other.url]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert len(error.splitlines()) == 1


def test_a_server_with_the_reconstructor_alone_will_do(explained: Explained) -> None:
    with fake_gateway() as other:
        other.served, other.rebuild = info() | {"verbalizer": None}, rebuilt
        assert "needs the reconstructor" not in page(explained.out, "--url", other.url)


def test_no_server_there(explained: Explained, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", str(explained.out), "--url", "http://127.0.0.1:9"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_vectors_that_cannot_be_read_again(tmp_path: Path) -> None:
    written = write(tmp_path / "out", verbalize=Verbalize(score=True, n=2))
    written.given.unlink()
    html = page(written.out)
    assert html.count("needs the vectors, which could not be read again") == 4
    assert "Their share of the unexplained" in html


@pytest.mark.parametrize("count", [2, 3])
def test_one_and_two_rows(tmp_path: Path, count: int) -> None:
    html = page(write(tmp_path / "out", count).out)
    assert f"all {count - 1} scored rows" in html
    assert ("too few rows" in html) == (count == 2)
