"""The report: its figures against plain numpy, and the page."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from nla_data import cli
from nla_data.api import Verbalize
from nla_data.errors import UsageError
from nla_data.report import build, originals, plots, rows
from nla_data.report.deviations import deviations
from nla_data.report.grouping import Codes, Grouping
from nla_data.report.results import Results
from nla_data.report.statistics import Figure, Figures, Resampler, figures
from tests.data.outputs import BASELINE, D, Written, write

EVIL = "</blockquote><script>alert(1)</script><img src=http://evil.example/x onerror=alert(2)>"
PNG = b"\x89PNG\r\n\x1a\n"


def fves(vectors: Any, cosine: Any) -> tuple[float, float, float]:
    """The three, straight from their formulas."""
    mse, own = 2 * (1 - cosine), len(cosine) / (len(cosine) - 1)
    norms = np.linalg.norm(vectors, axis=1)
    unit = np.sqrt(D) * vectors / norms[:, None]
    data = own * (np.linalg.norm(unit - unit.mean(axis=0), axis=1) ** 2 / D).mean()
    raw = own * (np.linalg.norm(vectors - vectors.mean(axis=0), axis=1) ** 2).sum()
    return 1 - mse.mean() / BASELINE, 1 - mse.mean() / data, 1 - (2 * norms**2 * (1 - cosine)).sum() / raw


def told(out: Path, *groups: str) -> dict[tuple[str, Any], Figures]:
    """The report's figures, by column and value."""
    results = Results.open(str(out))
    read = rows.read(results, groups)
    groupings = [Grouping.whole(len(read)), *read.groupings]
    distances = deviations(originals.pieces(results, read), groupings)
    return {
        (grouping.name, label): figures(read, grouping.members(code), BASELINE, found)
        for grouping, found in zip(groupings, distances, strict=True)
        for code, label in enumerate(grouping.labels)
    }


def check(found: Figures, vectors: Any, cosine: Any) -> None:
    three = [found.fve_served, found.fve_data, found.fve_raw]
    values = [figure.value for figure in three if figure]
    np.testing.assert_allclose(values, fves(vectors, cosine), rtol=0, atol=1e-9)
    for figure in three:
        assert figure is not None
        assert figure.low is not None
        assert figure.high is not None
        assert figure.low < figure.value < figure.high


def page(out: Path, *arguments: str) -> str:
    assert cli.main(["report", str(out), *arguments]) == 0
    return out.with_name(out.stem + ".html").read_text("utf-8")


@pytest.mark.parametrize(
    ("name", "job"),
    [
        ("out.parquet", {}),
        ("out", {"keep_vectors": True}),
        ("out", {"where": "layer = 25 OR token = 'the'", "limit": 150}),
    ],
)
def test_figures_are_those_of_plain_numpy(tmp_path: Path, name: str, job: dict[str, Any]) -> None:
    written = write(tmp_path / name, **job)
    if "keep_vectors" in job:
        written.given.unlink()
    found = told(written.out, "token")
    check(found["", "all"], written.vectors, written.cosine)
    for column in ("layer", "token"):
        for value in set(written.columns[column]):
            member = np.array([it == value for it in written.columns[column]])
            check(found[column, value], written.vectors[member], written.cosine[member])
            assert found[column, value].rows == member.sum()
    assert len(found) == 5


def test_vectors_are_read_in_small_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(originals, "_BYTES", 7 * 8 * D)
    written = write(tmp_path / "out")
    check(told(written.out)["", "all"], written.vectors, written.cosine)


def test_intervals_shrink_with_rows_and_hold_what_theory_says() -> None:
    widths = []
    for count in (100, 10_000, 1_000_000):
        values = np.random.default_rng(count).standard_normal(count) + 3
        figure = Resampler(count).ratio(values, np.ones(count))
        assert figure is not None
        assert figure.low is not None
        assert figure.high is not None
        widths.append(figure.high - figure.low)
        assert widths[-1] == pytest.approx(2 * 1.96 / np.sqrt(count), rel=0.2)
    assert widths == sorted(widths, reverse=True)


def test_rows_without_variance_have_no_fve() -> None:
    assert Resampler(3).ratio(np.ones(3), np.zeros(3)) is None
    one = Resampler(1).ratio(np.ones(1), np.ones(1))
    assert one is not None
    assert (one.value, one.low) == (1.0, None)


def test_the_page_tells_what_was_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = Verbalize(score=True, n=3, best=True, seed=5)
    written = write(tmp_path / "out.parquet", verbalize=task, where="layer > 1")
    html = page(written.out, "--group", "token")
    assert capsys.readouterr().out == f"{tmp_path / 'out.html'}\n"
    for text in ("nla verbalize IN OUT --n 3 --seed 5 --score --best --where &#39;layer &gt; 1&#39;", "given.parquet"):
        assert text in html
    assert "best of its 3 samples" in html
    assert "a zero vector, which has no direction" in html
    assert "samples&#39; mse" in html or "samples' mse" in html
    assert "By layer" in html
    assert "By token" in html
    assert "a &lt;b&gt;" in html
    assert "so far" not in html.lower().replace(".so-far", "")
    served, data, raw = fves(written.vectors, written.cosine)
    for value in (served, data, raw):
        assert f"{value:.4f}" in html
    assert html.count("<article>") == 30


def test_plots_are_files_too(tmp_path: Path) -> None:
    written = write(tmp_path / "out")
    stale = tmp_path / "page_files" / "mse.png"
    stale.parent.mkdir()
    stale.write_bytes(b"old")
    assert cli.main(["report", str(written.out), "--to", str(tmp_path / "page.html")]) == 0
    names = sorted(path.name for path in (tmp_path / "page_files").iterdir())
    assert names == ["by_layer.png", "fve.png", "norm.png", "norm_against.png"]
    assert all(path.read_bytes().startswith(PNG) for path in (tmp_path / "page_files").iterdir())
    assert (tmp_path / "page.html").read_text().count("data:image/png;base64,iVBOR") == 4


def test_an_output_so_far(tmp_path: Path) -> None:
    written = write(tmp_path / "out.parquet", finish=False)
    html = page(written.out)
    assert "<strong>So far:</strong>" in html
    assert f"{fves(written.vectors, written.cosine)[2]:.4f}" in html
    assert "5,000" in html  # prompt tokens of five parts


def test_without_a_baseline(tmp_path: Path) -> None:
    html = page(write(tmp_path / "out", baseline=None).out)
    assert "the server has no baseline" in html
    assert "Histogram: mse" in html
    assert "mean mse by layer" in html


@pytest.mark.parametrize("trouble", ["gone", "changed", "others"])
def test_inputs_that_are_no_longer_what_they_were(tmp_path: Path, trouble: str) -> None:
    written = write(tmp_path / "out.parquet")
    sentence = {
        "gone": "The input files cannot be read here",
        "changed": "The input files have changed since the run",
        "others": "The vectors that are there now are not those that were explained",
    }[trouble]
    if trouble == "gone":
        written.given.unlink()
    elif trouble == "changed":
        written.given.write_bytes(written.given.read_bytes() + b"x")
    else:
        _spoil_norms(written)
    html = page(written.out)
    assert sentence in html
    assert html.count("not known") == 2
    assert f"{fves(written.vectors, written.cosine)[0]:.4f}" in html


def _spoil_norms(written: Written) -> None:
    import pyarrow.parquet as pq

    table = pq.read_table(written.out)
    place = table.schema.get_field_index("norm")
    norms = np.array(table.column("norm").to_pylist(), float) * 1.01
    pq.write_table(table.set_column(place, "norm", pa.array(norms, from_pandas=True)), written.out)


class _Seen(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.links: list[str] = []
        self.images: list[dict[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "action", "srcset")]
        assert not [name for name, _ in attrs if name.startswith("on")]
        if tag == "img":
            self.images.append(dict(attrs))


def test_nothing_in_an_explanation_becomes_markup_and_nothing_is_fetched(tmp_path: Path) -> None:
    html = page(write(tmp_path / "out", 40, text=EVIL).out)
    seen = _Seen()
    seen.feed(html)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "script" not in seen.tags
    assert seen.links
    assert all(link.startswith("data:") for link in seen.links)
    assert all(image["alt"] for image in seen.images)
    assert not re.search(r"url\(|@import", html)
    assert html.startswith('<!DOCTYPE html>\n<html lang="en">')


def test_all_rows_failed(tmp_path: Path) -> None:
    html = page(write(tmp_path / "out", 1).out)
    assert "No row has a score." in html
    assert "<img" not in html


def test_what_cannot_be_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unscored = write(tmp_path / "unscored", 20, verbalize=Verbalize()).out
    out = write(tmp_path / "out", 300).out
    for arguments, words in {
        (str(tmp_path / "none"),): "no output of nla",
        (str(unscored),): "run with --score",
        (str(out), "--group", "no"): "no such column",
        (str(out), "--group", "samples"): "not single values",
        (str(out), "--group", "mse"): "more than 100 values",
        (str(out), "--to", str(out / "part-000000.parquet")): "must end in .html",
    }.items():
        assert cli.main(["report", *arguments]) == 2
        error = capsys.readouterr().err
        assert words in error
        assert len(error.splitlines()) == 1


def test_groups_come_in_order_with_missing_values_last() -> None:
    codes = Codes("c")
    codes.add(pa.array([10.0, 2.0, None]))
    codes.add(pa.array([2.0, float("nan"), -1.0]))
    grouping = codes.grouping()
    assert grouping.labels == [-1.0, 2.0, 10.0, "(no value)"]
    assert grouping.codes.tolist() == [2, 1, 3, 1, 3, 0]
    with pytest.raises(UsageError, match="more than 100 values"):
        codes.add(pa.array(np.arange(200.0)))


@pytest.mark.parametrize(
    "column", [pa.array([True, False, None]), pa.nulls(3), pa.array(["b", "a", "b"]).dictionary_encode()]
)
def test_any_column_of_single_values_makes_groups(column: pa.Array) -> None:
    codes = Codes("c")
    codes.add(column)
    grouping = codes.grouping()
    values = ["(no value)" if value is None else value for value in column.to_pylist()]
    assert [grouping.labels[code] for code in grouping.codes] == values


def test_plots_of_values_that_hardly_differ_and_of_odd_names() -> None:
    values = np.full(5000, 0.1)
    values[0] = np.nextafter(0.1, 1)
    one = Figure(0.5, 0.4, 0.6)
    drawn = [
        plots.histogram("mse", "mse", values),
        plots.histogram("norm", "norm", np.geomspace(1, 1e5, 5000), norms=True),
        plots.norm_against("mse", np.geomspace(1, 1e5, 5000), values),
        plots.by_layer("mse", ["$\\bad$", "20"], [one, Figure(0.5)]),
    ]
    assert all(plot.png.startswith(PNG) for plot in drawn)


def test_a_page_that_cannot_be_written(tmp_path: Path) -> None:
    out = write(tmp_path / "out", 30).out
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        build.write_report(str(out), str(tmp_path / "file" / "page.html"))
