"""Any table, in any chunks, cut into any files: it comes out the same, bit for bit, or is refused before it is sent."""

import itertools
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nla_data.api import Job, UsageError, Verbalize, run_job
from tests.data.arrow_types import TYPES, field, types_alike
from tests.data.gateway import D, FakeGateway, fake_gateway
from tests.data.tables import arrays, bits, load, save, values

MOST: Final = 9
VECTORS: Final = np.random.default_rng(0).standard_normal((MOST, D)).astype(np.float32)
SUFFIXES: Final = (".parquet", ".arrow", ".arrows")


@dataclass(frozen=True)
class Cut:
    """A table, where it is cut into files, of what kinds, and into how large chunks."""

    table: pa.Table
    cuts: list[int]
    suffixes: list[str]
    chunk: int


@st.composite
def tables(draw: st.DrawFn) -> Cut:
    size = draw(st.integers(1, MOST))
    fields = [
        field(f"c{k}", kind, draw(st.booleans()))
        for k, kind in enumerate(draw(st.lists(TYPES, min_size=1, max_size=3)))
    ]
    columns = [draw(arrays(one.type, size, one.nullable)) for one in fields]
    cuts = sorted(draw(st.lists(st.integers(0, size), max_size=2)))
    suffixes = draw(st.lists(st.sampled_from(SUFFIXES), min_size=len(cuts) + 1, max_size=len(cuts) + 1))
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(VECTORS[:size].reshape(-1)), D)
    schema = pa.schema([*fields, ("activation_vector", vectors.type)])
    return Cut(pa.table([*columns, vectors], schema=schema), cuts, suffixes, draw(st.integers(1, MOST)))


@pytest.fixture(scope="module")
def gateway() -> Iterator[FakeGateway]:
    with fake_gateway() as fake:
        yield fake


def written(cut: Cut, folder: Path) -> list[Path]:
    bounds = itertools.pairwise([0, *cut.cuts, cut.table.num_rows])
    return [
        save(cut.table.slice(begin, end - begin), folder / f"{k}{suffix}", cut.chunk)
        for k, ((begin, end), suffix) in enumerate(zip(bounds, cut.suffixes, strict=True))
    ]


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(cut=tables(), into=st.sampled_from(["out", "out.parquet"]))
def test_it_comes_out_the_same_or_is_refused(gateway: FakeGateway, cut: Cut, into: str) -> None:
    with TemporaryDirectory() as place:
        paths = written(cut, Path(place))
        whole = [load(path) for path in paths]
        gateway.seen.clear()
        job = Job(Verbalize(seed=0), list(map(str, paths)), f"{place}/{into}", [gateway.url])
        refused = refusal(job)
        if refused:
            assert gateway.seen == []
            assert any(f"column {name!r}" in refused for name in cut.table.column_names)
            assert any(str(path) in refused for path in paths)
            return
        out = pq.read_table(f"{place}/{into}")
        for name in cut.table.column_names[:-1]:
            chunks = [chunk for table in whole for chunk in table[name].chunks]
            wanted: list[Any] = [value for chunk in chunks for value in bits(chunk)]
            assert [value for chunk in out[name].chunks for value in bits(chunk)] == wanted


@st.composite
def files_that_differ(draw: st.DrawFn) -> list[tuple[pa.Table, str, int]]:
    """Tables of the same columns in types of their own, each with the kind of its file and the size of its chunks."""
    sizes = draw(st.lists(st.integers(0, 4), min_size=2, max_size=3))
    kinds = draw(st.lists(types_alike(len(sizes)), min_size=1, max_size=2))
    made = []
    for k, size in enumerate(sizes):
        there = {f"c{number}": of_files[k] for number, of_files in enumerate(kinds) if of_files[k] is not None}
        columns = {name: draw(arrays(kind, size)) for name, kind in there.items()}
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(VECTORS[:size].reshape(-1)), D)
        table = pa.table({**columns, "activation_vector": vectors})
        made.append((table, draw(st.sampled_from(SUFFIXES)), draw(st.integers(1, 4))))
    return made


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(files=files_that_differ())
def test_types_that_differ_keep_all_values_or_are_refused(
    gateway: FakeGateway, files: list[tuple[pa.Table, str, int]]
) -> None:
    with TemporaryDirectory() as place:
        paths = [save(table, Path(place, f"{k}{suffix}"), chunk) for k, (table, suffix, chunk) in enumerate(files)]
        whole = [load(path) for path in paths]
        gateway.seen.clear()
        refused = refusal(Job(Verbalize(seed=0), list(map(str, paths)), f"{place}/out", [gateway.url]))
        names = {name for table in whole for name in table.column_names} - {"activation_vector"}
        if refused:
            assert gateway.seen == []
            assert any(f"column {name!r}" in refused for name in names)
            assert any(str(path) in refused for path in paths)
            return
        out = pq.read_table(f"{place}/out")
        for name in names & {name for table in whole if table.num_rows for name in table.column_names}:
            wanted: list[Any] = []
            for table in whole:
                there = table[name].chunks if name in table.column_names else [pa.nulls(table.num_rows)]
                wanted += [value for chunk in there for value in values(chunk)]
            assert [value for chunk in out[name].chunks for value in values(chunk)] == wanted


def refusal(job: Job) -> str | None:
    """Why a job is refused, if it is."""
    try:
        run_job(job)
    except UsageError as error:
        return str(error)
    return None


WHOLE: Final = st.integers(-(2**65), 2**65) | st.integers(-9, 9)
SMALL: Final = st.integers(-(2**53), 2**53)
TEXT: Final = st.text(st.characters(codec="utf-8"), max_size=5)
ONE: Final = [
    st.booleans(), SMALL, WHOLE, st.floats(), st.floats() | SMALL, st.floats() | WHOLE, TEXT, st.dates().map(str),
    st.datetimes().map(str), st.lists(SMALL, max_size=3), st.lists(st.lists(st.floats() | SMALL, max_size=2)),
    st.dictionaries(st.sampled_from("abc"), SMALL | st.none(), min_size=1),
    st.lists(st.fixed_dictionaries({"a": TEXT}), max_size=2),
]  # fmt: skip
"""Of what kinds the values of a column are."""
VALUES: Final = st.recursive(
    st.one_of(ONE),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=2),
    max_leaves=4,
)
COLUMNS: Final = st.sampled_from([*ONE, *ONE, VALUES]).flatmap(
    lambda one: st.lists(st.none() | one, min_size=MOST, max_size=MOST)
)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(columns=st.lists(COLUMNS, min_size=1, max_size=3))
def test_json_lines_come_out_the_same_or_are_refused(gateway: FakeGateway, columns: list[list[Any]]) -> None:
    with TemporaryDirectory() as place:
        path = Path(place, "in.jsonl")
        rows = [{"activation_vector": VECTORS[k].tolist()} for k in range(MOST)]
        for k, row in enumerate(rows):
            row.update({f"c{number}": values[k] for number, values in enumerate(columns)})
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        gateway.seen.clear()
        refused = refusal(Job(Verbalize(seed=0), [str(path)], f"{place}/out", [gateway.url]))
        if refused:
            assert gateway.seen == []
            assert f"{path}: column 'c" in refused
            return
        out = pq.read_table(f"{place}/out")
        for number, values in enumerate(columns):
            assert [as_read(value) for value in out[f"c{number}"].to_pylist()] == [as_read(value) for value in values]


def as_read(value: Any) -> Any:
    """A key that is not there is read as one without a value; numbers are equal where all of their digits are."""
    if isinstance(value, dict):
        return {name: as_read(inner) for name, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [as_read(inner) for inner in value]
    return repr(value) if isinstance(value, float) and not math.isfinite(value) else value
