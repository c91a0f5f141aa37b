"""Reports of outputs of every kind: any settings, any types of columns, unfinished, empty, on object storage."""

import datetime
import itertools
import shlex
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import fs

from nla_client import Info
from nla_data import cli
from nla_data.api import Verbalize
from nla_data.asking.totals import Totals
from nla_data.flags import build_parser
from nla_data.report import examples, facts, rows
from nla_data.report.grouping import NO_VALUE
from nla_data.report.results import Results
from nla_data.report.statistics import MIN_ROWS
from nla_data.report.words import readable
from nla_data.run import Job
from nla_data.writing.manifest import InputFile, Manifest, PartState, Served
from nla_data.writing.parts import write_part
from nla_data.writing.store import Store
from tests.data.gateway import D, FakeGateway, fake_gateway, info
from tests.data.outputs import write

SERVED = Served(verbalizer=None, reconstructor=None, base_model=None, layer=1, d_model=4, predict_mean_mse=None)
INFO = Info.model_validate(info())
numbers = st.one_of(st.just(0.0), st.just(1.0), st.floats(0, 100, allow_nan=False))
FIELDS: Final = {
    "n": st.integers(1, 8),
    "temperature": st.one_of(numbers, st.sampled_from([0, 1, 2])),
    "top_p": st.sampled_from([1, 1.0, 0.5, 1e-05]),
    "top_k": st.one_of(st.none(), st.integers(1, 9)),
    "max_tokens": st.sampled_from([1, 200, 300]),
    "seed": st.one_of(st.none(), st.integers(0, 2**31 - 1), st.just(0)),
    "score": st.booleans(),
    "best": st.booleans(),
    "dtype": st.sampled_from(["bfloat16", "float32"]),
    "vector_column": st.sampled_from(["activation_vector", "v", "-v", "a b"]),
}
OWN: Final = {
    "where": st.sampled_from([None, "layer = 0", "-x < 1", "token <> 'it''s'"]),
    "limit": st.sampled_from([None, 0, 1, 5]),
    "drop": st.lists(st.sampled_from(["token", "-t", "--limit", "a b"]), unique=True),
    "keep_vectors": st.booleans(),
    "ray": st.booleans(),
}


@settings(deadline=None)  # a busy machine is no failure
@given(st.fixed_dictionaries({}, optional=FIELDS), st.fixed_dictionaries({}, optional=OWN))
def test_the_command_that_is_shown_asks_for_the_same(task: dict[str, Any], own: dict[str, Any]) -> None:
    job = Job(Verbalize(**task), ["IN"], "OUT", [], **own).bound_to(INFO)
    served = Served.of(INFO, source=False)
    shown = facts.command(Manifest(task="verbalize", settings=job.settings(), inputs=[], served=served))
    assert "--max-tokens" in shown or task.get("max_tokens", 200) == 200
    arguments = build_parser().parse_args(shlex.split(shown)[1:])
    again = cli._job(arguments)
    assert again.bound_to(INFO).settings() == job.settings()
    assert (list(again.inputs), again.out) == (["IN"], "OUT")


def test_zeros_are_not_lost_and_ray_is_a_flag() -> None:
    job = Job(Verbalize(temperature=0, seed=0, score=True), ["IN"], "OUT", [], limit=0, ray=True)
    manifest = Manifest(task="verbalize", settings=job.settings(), inputs=[], served=SERVED)
    assert facts.command(manifest) == "nla verbalize IN OUT --temperature 0 --seed 0 --score --limit 0 --ray"
    assert dict(facts.settings(manifest))["ray"] == "yes, in parts of 2,048 rows"


def page(out: Path | str, *arguments: str) -> str:
    to = next((after for it, after in itertools.pairwise(arguments) if it == "--to"), None)
    assert cli.main(["report", str(out), *arguments]) == 0
    path = Path(to) if to else Path(out).with_suffix(".html")
    return path.read_text("utf-8")


def has_all_three(html: str) -> bool:
    return "not known" not in html and "cannot be read" not in html and "have changed" not in html


class TestRay:
    @pytest.fixture
    def out(self, tmp_path: Path) -> Path:
        """Parts 0, 2, 3 and 4 of five, each of which counts its own rows."""
        written = write(tmp_path / "out", finish=False, ray=True)
        store, run = Store(str(written.out)), Results.open(str(written.out)).manifest.run
        for index, path in store.found_parts().items():
            table = pq.read_table(path)
            totals = Totals(rows=table.num_rows, prompt_tokens=1000 + index, seconds=2.0)
            write_part(store, index, table, PartState(run=run, totals=totals))
        Path(written.out, "part-000001.parquet").unlink()
        return written.out

    def test_an_unfinished_output_counts_what_is_there(self, out: Path) -> None:
        html = page(out)
        assert "<strong>So far:</strong>" in html
        assert has_all_three(html)
        assert "4,009" in html  # prompt tokens
        totals = Results.open(str(out)).totals
        assert (totals.rows, totals.prompt_tokens, totals.seconds) == (230, 4009, 8.0)

    def test_a_part_of_another_run_is_told(self, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
        table = pq.read_table(out / "part-000002.parquet")
        write_part(Store(str(out)), 2, table, PartState(run="another"))
        assert cli.main(["report", str(out)]) == 2
        assert "is of another run" in capsys.readouterr().err


def test_a_missing_part_of_a_run_without_ray_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = write(tmp_path / "out", finish=False).out
    (out / "part-000001.parquet").unlink()
    assert cli.main(["report", str(out)]) == 2
    assert "part 1 is missing" in capsys.readouterr().err


@pytest.mark.parametrize("finish", [False, True])
@pytest.mark.parametrize("job", [{"limit": 0}, {"where": "layer > 99"}, {"limit": 0, "keep_vectors": True}])
def test_no_rows(tmp_path: Path, job: dict[str, Any], finish: bool) -> None:
    written = write(tmp_path / "out", finish=finish, verbalize=Verbalize(score=True, n=2), **job)
    _empty_part(written.out, finish=finish)
    html = page(written.out, "--group", "token")
    assert "No row has a score." in html
    assert "By layer" in html


def _empty_part(out: Path, *, finish: bool) -> None:
    """What a run writes that found no rows."""
    store = Store(str(out))
    if not store.found_parts():
        whole = write(out.with_name("other"), 5).out
        manifest = Manifest.model_validate_json((out / "_nla.json").read_bytes())
        empty = pq.read_table(whole).slice(0, 0)
        write_part(store, 0, empty, PartState(run=manifest.run))
        assert manifest.finished == finish


@pytest.mark.parametrize("also", [[], ["layer"]])
def test_vectors_that_are_kept_and_dropped(tmp_path: Path, also: list[str]) -> None:
    out = write(tmp_path / "out", keep_vectors=True, drop=["activation_vector", *also]).out
    assert has_all_three(page(out))


UNITS: Final = {"s": 2**52, "ms": 2**62, "us": 2**62, "ns": 2**62}
"""With the farthest time that parquet can hold."""
COLUMNS: Final[dict[str, Any]] = {
    **{
        f"timestamp[{unit}]": pa.array([0, 1, -1, far, -far, None], pa.int64()).cast(pa.timestamp(unit))
        for unit, far in UNITS.items()
    },
    **{
        f"timestamp[{unit}, UTC]": pa.array([0, 1, -1, far, -far, None], pa.int64()).cast(pa.timestamp(unit, "UTC"))
        for unit, far in UNITS.items()
    },
    **{
        f"duration[{unit}]": pa.array([0, 1, -1, far, -far, None], pa.int64()).cast(pa.duration(unit))
        for unit, far in UNITS.items()
    },
    "timestamp[us, Berlin]": pa.array([0, 1, -1, None], pa.int64()).cast(pa.timestamp("us", "Europe/Berlin")),
    "date32": pa.array([0, 2**31 - 1, -(2**31), None], pa.int32()).cast(pa.date32()),
    "date64": pa.array([datetime.date(2020, 1, 1), datetime.date(9999, 12, 31), None], pa.date64()),
    "time32": pa.array([0, 5, None], pa.int32()).cast(pa.time32("ms")),
    "time64": pa.array([0, 5, None], pa.int64()).cast(pa.time64("ns")),
    "string_view": pa.array(["a", "b", None], pa.string_view()),
    "binary_view": pa.array([b"a", b"\xff", None], pa.binary_view()),
    "large_string": pa.array(["a", "b", None], pa.large_string()),
    "no UTF-8": pa.array([b"a", b"\xff\xfe", None]).view(pa.string()),
    "dictionary": pa.array(["a", "b", None]).dictionary_encode(),
    "dictionary of timestamps": pa.array([0, 2**62], pa.int64()).cast(pa.timestamp("us")).dictionary_encode(),
    "binary": pa.array([b"a", b"\xff", None]),
    "fixed binary": pa.array([b"ab", b"\xff\xfe", None], pa.binary(2)),
    "float16": pa.array(np.array([1, 2, np.nan], np.float16)),
    "decimal": pa.array([2, 10, None]).cast(pa.decimal128(22, 2)),
    "bool": pa.array([True, False, None]),
    "uint64": pa.array([2**64 - 1, 0, None], pa.uint64()),
    "null": pa.nulls(3),
    "uuid": pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"a" * 16, b"b" * 16, None], pa.binary(16))),
}


def repeated(values: Any, count: int) -> Any:
    """The values over and over."""
    is_view = pa.types.is_string_view(values.type) or pa.types.is_binary_view(
        values.type
    )  # which Arrow cannot take from
    told = (readable(values) if is_view else values).take(pa.array(np.arange(count) % len(values)))
    return told.cast(values.type) if is_view else told


@pytest.mark.parametrize("without_pandas", [False, True])
def test_columns_of_any_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without_pandas: bool) -> None:
    if without_pandas:
        for name in [name for name in sys.modules if name.partition(".")[0] == "pandas"]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, "pandas", None)
    monkeypatch.setattr(examples, "MAX_COLUMNS", 100)
    more = {name: repeated(values, 66) for name, values in COLUMNS.items()}
    out = write(tmp_path / "out", 66, more=more).out
    results = Results.open(str(out))
    read = rows.read(results, list(COLUMNS))
    for grouping in read.groupings[1:]:
        missing = more[grouping.name].null_count or grouping.name == "float16"
        assert (NO_VALUE in grouping.labels) == bool(missing), grouping.name
        assert len(grouping.labels) >= min(len(COLUMNS[grouping.name]), 2) or grouping.name == "null", grouping.name
    assert all(found for found in examples.read(results, read).values())
    html = page(out, *(argument for name in COLUMNS for argument in ("--group", name)))
    assert all(f"By {name}" in html for name in COLUMNS)
    assert has_all_three(html)


def test_groups_of_numbers_are_in_order_and_times_are_readable(tmp_path: Path) -> None:
    amounts = pa.array(np.arange(66) % 12).cast(pa.decimal128(22, 1))
    when = pa.array(np.arange(66) % 2 * 1_500_000_000, pa.int64()).cast(pa.timestamp("ns"))
    html = page(
        write(tmp_path / "out", 66, more={"amount": amounts, "when": when}).out, "--group", "amount", "--group", "when"
    )
    labels = [line.partition("</th>")[0] for line in html.split('<th scope="row" dir="auto">')[1:]]
    assert labels[2:14] == [f"{k}.0" for k in range(12)]
    assert labels[14:16] == ["1970-01-01 00:00:00", "1970-01-01 00:00:01.500000000"]


def test_groups_too_small_for_an_interval_say_so(tmp_path: Path) -> None:
    groups = pa.array(["small" if k in (1, 2, 3) else "large" for k in range(66)])
    html = page(write(tmp_path / "out", 66, more={"group": groups}).out, "--group", "group")
    small, large = (html.partition(f">{name}</th>")[2].partition("</tr>")[0] for name in ("small", "large"))
    assert small.count("<td>") == large.count("<td>") == 6
    assert (small.count(" to "), large.count(" to ")) == (0, 5)
    assert f"fewer than {MIN_ROWS} rows" in html
    few = page(write(tmp_path / "few", 5).out)
    assert few.count("none: fewer than 6 rows") == 5


@pytest.mark.parametrize("where", ["both", "in", "out"])
def test_object_storage(tmp_path: Path, bucket: fs.FileSystem, query: str, where: str) -> None:
    vectors = np.random.default_rng(0).standard_normal((60, D)).astype(np.float32)
    table = pa.table({"layer": [20] * 60, "activation_vector": list(vectors)})
    for name in ("a.parquet", "b.parquet"):
        with bucket.open_output_stream(f"bucket/in/{name}") as stream:
            pq.write_table(table, stream)
        (tmp_path / "in").mkdir(exist_ok=True)
        pq.write_table(table, tmp_path / "in" / name)
    given_in = str(tmp_path / "in") if where == "out" else f"s3://bucket/in{query}"
    out = str(tmp_path / "out") if where == "in" else f"s3://bucket/out{query}"
    with fake_gateway() as gateway:
        _verbalize(gateway, given_in, out)
    with bucket.open_output_stream("bucket/in/c.parquet") as stream:  # of a later day
        pq.write_table(table, stream)
    html = page(out, "--to", str(tmp_path / "page.html"))
    assert has_all_three(html)
    bucket.delete_file("bucket/in/a.parquet")
    again = page(out, "--to", str(tmp_path / "page.html"))
    assert has_all_three(again) == (where == "out")


def _verbalize(gateway: FakeGateway, given_in: str, out: str) -> None:
    arguments = ["verbalize", given_in, out, "--score", "--url", gateway.url, "--progress", "quiet"]
    assert cli.main(arguments) == 0


def test_keys_in_a_uri_are_not_written_down(tmp_path: Path) -> None:
    from nla_data.given import as_found_again

    assert as_found_again("s3://key:secret@bucket/a?region=x") == "s3://bucket/a?region=x"
    assert as_found_again("s3://bucket/a@b") == "s3://bucket/a@b"
    assert as_found_again(str(tmp_path)) == str(tmp_path)
    assert Path(as_found_again("x.parquet")).is_absolute()


def test_an_output_of_before_inputs_were_noted_as_given(tmp_path: Path) -> None:
    out = write(tmp_path / "out").out
    manifest = Manifest.model_validate_json((out / "_nla.json").read_bytes())
    assert manifest.given == []
    assert all(isinstance(file, InputFile) for file in manifest.inputs)
    assert has_all_three(page(out))
