"""`nla report A B`: which rows are the same, what is refused, and the page."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nla_data import cli
from nla_data.api import Verbalize
from nla_data.report import rows
from nla_data.report.pairing import Run, pair
from nla_data.report.results import Results
from tests.data.outputs import BASELINE, Written, made_up, write
from tests.data.report.test_report import EVIL, PNG, _Seen, fves

COUNT = 200


def cosines(seed: int) -> np.ndarray:
    return np.clip(0.7 + 0.1 * np.random.default_rng(seed).standard_normal(COUNT), -1, 1)


def keys() -> dict[str, Any]:
    """Three positions of each text."""
    return {"doc_id": [f"text {k // 3}" for k in range(COUNT)], "position": [50 + k % 3 for k in range(COUNT)]}


def both(folder: Path, *, second: dict[str, Any] | None = None, **first: Any) -> tuple[Written, Written]:
    one = write(folder / "a.parquet", COUNT, cosine=cosines(1), **first)
    return one, write(folder / "b", COUNT, **({"cosine": cosines(2), "given": one.given} | (second or {})))


def run(written: Written) -> Run:
    results = Results.open(str(written.out))
    return Run(results, rows.read(results, []))


def compare(first: Path, second: Path, *arguments: str) -> str:
    assert cli.main(["report", str(first), str(second), *arguments]) == 0
    return first.with_name(f"{first.stem}_against_{second.stem}.html").read_text("utf-8")


def refused(first: Path, second: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert cli.main(["report", str(first), str(second)]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    return error


def elsewhere(written: Written, folder: Path, order: Any = None, change: Any = None) -> Path:
    """Its input as another file, with rows in another order or vectors that were changed."""
    folder.mkdir(exist_ok=True)
    table = pq.read_table(written.given)
    if change is not None:
        place = table.schema.get_field_index("activation_vector")
        vectors = change(np.stack(table.column("activation_vector").to_numpy(zero_copy_only=False)))
        table = table.set_column(place, "activation_vector", pa.array(list(vectors.astype(np.float32))))
    pq.write_table(table.take(pa.array(range(COUNT) if order is None else order)), folder / "given.parquet")
    return folder / "given.parquet"


def test_rows_of_the_same_inputs_are_matched_by_their_number(tmp_path: Path) -> None:
    one, other = both(tmp_path, where="layer = 25", second={"where": "token = 'the'", "limit": 60})
    found = pair(run(one), run(other))
    assert (found.by, found.same_inputs) == (("input_row",), True)
    common = sorted(set(one.numbers.tolist()) & set(other.numbers.tolist()))
    assert one.numbers[found.first].tolist() == other.numbers[found.second].tolist() == common
    assert 0 < len(common) < min(len(one.numbers), len(other.numbers))


def test_rows_of_other_files_are_matched_by_text_and_position(tmp_path: Path) -> None:
    one = write(tmp_path / "a.parquet", COUNT, cosine=cosines(1), more=keys())
    order = np.random.default_rng(0).permutation(COUNT)
    given = elsewhere(one, tmp_path / "other", order)
    other = write(tmp_path / "b", COUNT, given=given, cosine=cosines(1)[order])
    found = pair(run(one), run(other))
    assert (found.by, found.same_inputs) == (("doc_id", "position"), False)
    assert len(found.first) == len(one.numbers)
    assert one.numbers[found.first].tolist() == order[other.numbers[found.second]].tolist()
    html = compare(one.out, other.out)
    assert "other files, with the same vectors" in html
    assert "doc_id and position" in html
    assert "100.0 %" in html.partition("tied")[2]


def test_a_copy_of_the_input_without_them_is_matched_by_number(tmp_path: Path) -> None:
    one = write(tmp_path / "a.parquet", COUNT, cosine=cosines(1))
    other = write(tmp_path / "b", COUNT, given=elsewhere(one, tmp_path / "other"), cosine=cosines(2))
    found = pair(run(one), run(other))
    assert (found.by, found.same_inputs) == (("input_row",), False)
    assert found.first.tolist() == found.second.tolist()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda vectors: vectors * 1.001, "of 181 vectors differ, such as row 1"),
        (lambda vectors: -vectors, "their vectors differ"),
        (lambda vectors: vectors[:, ::-1], "differ"),
    ],
)
def test_other_vectors_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Any, why: str) -> None:
    one = write(tmp_path / "a.parquet", COUNT)
    given = elsewhere(one, tmp_path / "other", change=change)
    error = refused(one.out, write(tmp_path / "b", COUNT, given=given).out, capsys)
    assert f"not two runs of the same rows: they are of different inputs {one.given} and {given}" in error
    assert why in error


def test_vectors_that_cannot_be_compared_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = write(tmp_path / "a.parquet", COUNT)
    given = elsewhere(one, tmp_path / "other")
    other = write(tmp_path / "b", COUNT, given=given)
    given.unlink()
    assert "whether their vectors are the same cannot be seen" in refused(one.out, other.out, capsys)


def test_another_column_of_the_same_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    twice = {"another": pa.array(list(made_up(COUNT)[0] * 2))}
    one, other = both(tmp_path, more=twice, second={"verbalize": Verbalize(score=True, vector_column="another")})
    assert "different columns 'activation_vector' and 'another'" in refused(one.out, other.out, capsys)


def test_no_row_in_both_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = both(tmp_path, where="layer = 20", second={"where": "layer = 25"})
    assert "no row has a score in both, by input_row" in refused(one.out, other.out, capsys)


def test_what_cannot_be_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = both(tmp_path)
    unscored = write(tmp_path / "unscored", 20, verbalize=Verbalize()).out
    for arguments, words in {
        (str(tmp_path / "none"),): "no output of nla",
        (str(unscored),): "run with --score",
        (str(other.out), "--group", "no"): "no such column",
        (str(other.out), "--to", "page.txt"): "must end in .html",
        (str(other.out), "--url", "http://127.0.0.1:9"): "--url goes with one output",
    }.items():
        assert cli.main(["report", str(one.out), *arguments]) == 2
        assert words in capsys.readouterr().err


def test_the_page_tells_the_differences(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = both(tmp_path, second={"verbalize": Verbalize(score=True, n=4, best=True, temperature=0.5)})
    html = compare(one.out, other.out, "--group", "token")
    assert capsys.readouterr().out == f"{tmp_path / 'a_against_b.html'}\n"
    before, after = (fves(it.vectors, it.cosine) for it in (one, other))
    for first, second in zip(before, after, strict=True):
        for shown in (f"{first:.4f}", f"{second:.4f}", f"{second - first:+.4f}"):
            assert shown in html
    mse = 2 * (one.cosine - other.cosine)
    assert f"{mse.mean():+.4f}" in html
    won = html.partition('<tr><th scope="row">won')[2].partition("</tr>")[0]
    assert f"<td>{(mse < 0).mean():.1%}".replace("%", " %") in won
    for text in ("B − A by layer", "B − A by token", "a &lt;b&gt;", "0.9 and 0.9", ">temperature<", ">0.5<"):
        assert text in html
    assert "A counts each row with the best of 1 samples, B with the best of 4" in html
    assert html.count("<article>") == 20
    worst = int(one.numbers[np.argmax(mse)])
    lost = html.partition("Lost most by B")[2].partition("</article>")[0]
    assert lost.count(f'<blockquote dir="auto">a text {worst}<') == 2
    assert f"row {worst}, mse of B minus mse of A {mse.max():+.4f}" in lost
    names = sorted(path.name for path in (tmp_path / "a_against_b_files").iterdir())
    assert names == ["difference.png", "pairs.png"]
    assert all(path.read_bytes().startswith(PNG) for path in (tmp_path / "a_against_b_files").iterdir())


def test_figures_by_value_have_the_mean_of_their_own_pairs(tmp_path: Path) -> None:
    one, other = both(tmp_path, second={"limit": 100})
    html = compare(one.out, other.out)
    inside = one.numbers < 100
    for layer in (20, 25):
        mine = np.array([it == layer for it in one.columns["layer"]])
        theirs = np.array([it == layer for it in other.columns["layer"]])
        before = fves(one.vectors[mine & inside], one.cosine[mine & inside])
        after = fves(other.vectors[theirs], other.cosine[theirs])
        line = html.partition(f'<th scope="row" dir="auto">{layer}</th>')[2].partition("</tr>")[0]
        assert f"<td>{theirs.sum()}</td>" in line
        for first, second in zip(before, after, strict=True):
            assert f"{second - first:+.4f}" in line
    assert 'Scored in A alone, left out</dt><dd dir="auto">91<' in html


def test_kept_vectors_of_the_second_run_will_do(tmp_path: Path) -> None:
    one, other = both(tmp_path, second={"keep_vectors": True})
    one.given.unlink()
    html = compare(one.out, other.out)
    raw = fves(other.vectors, other.cosine)[2] - fves(one.vectors, one.cosine)[2]
    assert f"{raw:+.4f}" in html
    assert "not known" not in html


def test_without_vectors_the_rest_is_told(tmp_path: Path) -> None:
    one, other = both(tmp_path)
    one.given.unlink()
    html = compare(one.out, other.out)
    assert "The input files cannot be read here" in html
    assert html.count("not known") == 2
    assert f"{2 * (other.cosine - one.cosine).mean() / BASELINE:+.4f}" in html


def test_a_run_against_itself_and_one_so_far(tmp_path: Path) -> None:
    one = write(tmp_path / "a", COUNT, finish=False).out
    html = compare(one, one)
    assert "Nothing differs between the runs' models and settings." in html
    assert html.count("+0.0000 <small>+0.0000 to +0.0000</small>") >= 5
    assert "-0.0000" not in html
    assert "<article>" not in html
    assert html.count("<strong>So far:</strong>") == 2


def test_nothing_in_an_explanation_becomes_markup(tmp_path: Path) -> None:
    evil = {"token": pa.array([EVIL] * COUNT)}
    one = write(tmp_path / "a.parquet", COUNT, cosine=cosines(1), text=EVIL, more={"doc_id": evil["token"]})
    other = write(tmp_path / "b", COUNT, cosine=cosines(2), text=f"B {EVIL}", given=one.given)
    html = compare(one.out, other.out, "--group", "doc_id")
    seen = _Seen()
    seen.feed(html)
    assert "B &lt;/blockquote&gt;&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "script" not in seen.tags
    assert all(link.startswith("data:") for link in seen.links)
    assert all(image["alt"] for image in seen.images)
