"""Files as people have them, from end to end: what goes in comes out the same, or is refused before a row is sent."""

import gzip
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
import safetensors.torch
import torch

from nla_data import cli
from tests.data.gateway import D, FakeGateway, failure
from tests.data.tables import bits

N: Final = 90
X: Final = (np.random.default_rng(0).standard_normal((N, D)) * 4).astype(np.float32)
LIMIT: Final = 2**53


@pytest.fixture
def nla(gateway: FakeGateway, tmp_path: Path) -> Callable[..., int]:
    """Runs `nla verbalize IN... out.parquet`."""

    def run(*given: Any, out: str = "out.parquet") -> int:
        arguments = ["verbalize", *map(str, given), str(tmp_path / out)]
        flags = [argument for argument in arguments if argument.startswith("--")]
        place = arguments.index(flags[0]) if flags else len(arguments) - 1
        inputs, options = arguments[1:place], arguments[place:-1]
        fixed = ["--url", gateway.url, "--progress", "quiet", "--seed", "0"]
        return cli.main(["verbalize", *inputs, arguments[-1], *options, *fixed])

    return run


@pytest.fixture
def refused(nla: Callable[..., int], gateway: FakeGateway, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs it, too, and gives the one line with which it is refused before anything is sent."""

    def run(*given: Any) -> str:
        capsys.readouterr()
        assert nla(*given) == 2
        assert gateway.seen == []
        error = capsys.readouterr().err
        assert error.startswith("nla: ")
        assert error.count("\n") == 1
        return error

    return run


def column(path: Path, name: str) -> list[Any]:
    found: list[Any] = pq.read_table(path / "out.parquet")[name].to_pylist()
    return found


def vectors(array: Any = X) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(array).reshape(-1)), array.shape[1])


def save_ipc(table: pa.Table, path: Path) -> None:
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table)


def save_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def shards(path: Path, columns: list[pa.Array]) -> Path:
    folder = path / "shards"
    folder.mkdir()
    for k, values in enumerate(columns):
        table = pa.table({"activation_vector": vectors(X[: len(values)]), "x": values})
        pq.write_table(table, folder / f"{k}.parquet", row_group_size=20)
    return folder


def test_pandas_categories_over_shards(tmp_path: Path, nla: Callable[..., int]) -> None:
    (tmp_path / "in").mkdir()
    wanted = []
    for k in range(3):
        docs = [f"doc{k}-{i}" if i % 7 else None for i in range(N)]
        frame = pd.DataFrame({"activation_vector": list(X), "doc": pd.Categorical(docs)})
        frame.to_parquet(tmp_path / "in" / f"{k}.parquet")
        wanted += docs
    assert nla(tmp_path / "in") == 0
    assert column(tmp_path, "doc") == wanted
    assert pd.read_parquet(tmp_path / "out.parquet")["doc"].isna().sum() == wanted.count(None)


@pytest.mark.parametrize("kind", [pa.string_view(), pa.dictionary(pa.int8(), pa.string()), "run ends"])
def test_kinds_of_texts_in_conditions_and_in_the_report(
    tmp_path: Path, nla: Callable[..., int], kind: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    tokens = pa.array(["a", "b"] * 45)
    if kind == "run ends":
        tokens = pa.RunEndEncodedArray.from_arrays(pa.array(range(1, N + 1), pa.int32()), tokens)
    else:
        tokens = tokens.cast(kind)
    save_ipc(pa.table({"activation_vector": vectors(), "token": tokens}), tmp_path / "in.arrow")
    assert nla(tmp_path / "in.arrow", "--where", "token = 'a'", "--score") == 0
    assert column(tmp_path, "token") == ["a"] * 45
    capsys.readouterr()
    assert cli.main(["report", str(tmp_path / "out.parquet"), "--group", "token"]) == 0
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("columns", "kind"),
    [
        ([pa.nulls(3), pa.array(["a", None])], pa.string()),
        ([pa.array([1, 2]), pa.array([0.5])], pa.float64()),
        ([pa.array([LIMIT, -LIMIT]), pa.array([0.5])], pa.float64()),
        ([pa.array([1], pa.int8()), pa.array([300], pa.int16()), pa.array([2**40])], pa.int64()),
        ([pa.array([1], pa.uint8()), pa.array([-1], pa.int8())], pa.int16()),
        ([pa.array([2**62], pa.uint64()), pa.array([-1])], pa.int64()),
        ([pa.array([0.5], pa.float16()), pa.array([0.1], pa.float32())], pa.float32()),
        ([pa.array(["a"]), pa.array(["b"], pa.large_string()), pa.array(["c"], pa.string_view())], pa.large_string()),
        ([pa.array(["a"]).dictionary_encode(), pa.array(["b", None])], pa.string()),
        (
            [pa.array(["a"], pa.dictionary(pa.int8(), pa.string())), pa.array(["b"], pa.dictionary(pa.int32(), "str"))],
            pa.string(),
        ),
        ([pa.array([[1]], pa.list_(pa.int8())), pa.array([[0.5]], pa.large_list(pa.float64()))], None),
        ([pa.array([[1]], pa.list_(pa.int8(), 1)), pa.array([[1, 2]], pa.list_(pa.int8(), 2))], None),
        ([pa.array([{"a": 1}]), pa.array([{"a": None}], pa.struct([("a", pa.null())]))], None),
        ([pa.array([1], pa.timestamp("s")), pa.array([2], pa.timestamp("ns"))], pa.timestamp("ns")),
        ([pa.array([b"a"]), pa.array([b"bc"], pa.binary(2))], pa.binary()),
    ],
)
def test_shards_whose_types_differ_harmlessly(
    tmp_path: Path, nla: Callable[..., int], columns: list[pa.Array], kind: Any
) -> None:
    assert nla(shards(tmp_path, columns)) == 0
    assert column(tmp_path, "x") == [value for part in columns for value in part.to_pylist()]
    assert kind in (None, pq.read_schema(tmp_path / "out.parquet").field("x").type)


@pytest.mark.parametrize(
    ("columns", "file", "reason"),
    [
        ([pa.array([1]), pa.array([0.5]), pa.array([LIMIT + 1])], 2, "9007199254740993"),
        ([pa.array([-1]), pa.array([2**63], pa.uint64())], 1, "9223372036854775808"),
        ([pa.array(["a"]), pa.array([b"a"])], 1, "binary, in"),
        ([pa.array([1]), pa.array(["1"])], 1, "string, in"),
        ([pa.array([True]), pa.array([1])], 1, "int64, in"),
        ([pa.array([0.5]), pa.array([1]).cast(pa.decimal128(22, 2))], 1, "decimal128(22, 2), in"),
        ([pa.array([2**62], pa.timestamp("s"))], 0, "out of bounds"),
        ([pa.array([1], pa.int64()).view(pa.date64())], 0, "would lose data: 1"),
    ],
)
def test_values_that_would_change_are_refused_before_the_first_row(
    tmp_path: Path, refused: Callable[..., str], columns: list[pa.Array], file: int, reason: str
) -> None:
    if columns[0].type in (pa.date64(), pa.timestamp("s")):  # parquet has them not
        folder = tmp_path / "shards"
        folder.mkdir()
        save_ipc(pa.table({"activation_vector": vectors(X[:1]), "x": columns[0]}), folder / "0.arrow")
        name = "0.arrow"
    else:
        folder, name = shards(tmp_path, columns), f"{file}.parquet"
    error = refused(folder)
    assert f"{name}: column 'x'" in error
    assert reason in error


SAVED: Final[dict[str, Callable[[pa.Table, Path], Any]]] = {
    "parquet": pq.write_table,
    "arrow": save_ipc,
    "jsonl": lambda table, path: save_lines(path, table.to_pylist()),
}


@pytest.mark.parametrize("kind", SAVED)
def test_a_column_that_one_shard_lacks_is_null_there(
    tmp_path: Path, nla: Callable[..., int], gateway: FakeGateway, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    values = [{"a": [1]}, {"a": []}] * 30
    (tmp_path / "in").mkdir()
    for k in range(3):
        table = pa.table({"activation_vector": vectors(X[:60])})
        SAVED[kind](table if k == 1 else table.append_column("x", [values]), tmp_path / "in" / f"{k}.{kind}")
    gateway.trouble = lambda _path, _body: failure("engine_unavailable") if gateway.vectors >= 64 else None
    gateway.ready = False
    assert nla(tmp_path / "in", "--patience", "0.5") == 1
    gateway.trouble, gateway.ready = lambda _path, _body: None, True
    assert nla(tmp_path / "in") == 0  # a run goes on as any other
    assert column(tmp_path, "x") == [*values, *[None] * 60, *values]
    assert f"1.{kind}: has no column 'x': it is null in these rows" in capsys.readouterr().err
    assert nla(tmp_path / "in", "--where", "x IS NULL", "--drop", "x", out="null.parquet") == 0
    assert pq.read_table(tmp_path / "null.parquet")["input_row"].to_pylist() == list(range(60, 120))


@pytest.mark.parametrize("kind", SAVED)
def test_vectors_that_one_shard_lacks(tmp_path: Path, refused: Callable[..., str], kind: str) -> None:
    (tmp_path / "in").mkdir()
    SAVED[kind](pa.table({"activation_vector": vectors(X[:2]), "x": [1, 2]}), tmp_path / "in" / f"0.{kind}")
    SAVED[kind](pa.table({"x": [1, 2]}), tmp_path / "in" / f"1.{kind}")
    assert f"1.{kind}: has no column 'activation_vector', which {tmp_path}/in/0.{kind} has" in refused(tmp_path / "in")


def test_an_array_that_is_left_out_of_one_shard_is_not_null_there(tmp_path: Path, refused: Callable[..., str]) -> None:
    (tmp_path / "in").mkdir()
    np.savez(tmp_path / "in" / "0.npz", activation_vector=X[:2], x=[1, 2])
    np.savez(tmp_path / "in" / "1.npz", activation_vector=X[:2], x=[1, 2, 3])
    assert "1.npz: column 'x' has not one row for each vector" in refused(tmp_path / "in")


def test_what_folders_say_of_some_files(
    tmp_path: Path, refused: Callable[..., str], nla: Callable[..., int], gateway: FakeGateway
) -> None:
    (tmp_path / "in" / f"x={LIMIT + 1}").mkdir(parents=True)
    table = pa.table({"activation_vector": vectors(X[:2])})
    pq.write_table(table, tmp_path / "in" / f"x={LIMIT + 1}" / "a.parquet")
    pq.write_table(table, tmp_path / "in" / "b.parquet")
    assert nla(tmp_path / "in", out="both.parquet") == 0
    both = pq.read_table(tmp_path / "both.parquet")
    assert sorted(both["x"].to_pylist(), key=str) == [LIMIT + 1, LIMIT + 1, None, None]
    gateway.seen.clear()
    pq.write_table(table.append_column("x", [[0.5, 0.5]]), tmp_path / "in" / "b.parquet")
    assert "column 'x' is int64, and comes out as double" in refused(tmp_path / "in")


def odd_columns() -> dict[str, pa.Array]:
    """What pyarrow's own conversions cannot do, or do wrongly."""
    texts = pa.array(["a", None] * 45, pa.string_view())
    ends = pa.array(range(1, N + 1), pa.int32())
    days = pa.array([0, 86_400_000] * 45, pa.int64()).view(pa.date64())
    lengthless = pa.Array.from_buffers(pa.list_(pa.date64(), 0), N, [None], children=[days[:0]])
    twice = [pa.field("a", pa.date64()), pa.field("a", pa.int64())]
    return {
        "dictionary of views": pa.DictionaryArray.from_arrays(pa.array([0, 1] * 45), texts[:2]),
        "runs of views": pa.RunEndEncodedArray.from_arrays(ends, texts),
        "runs of uuids": pa.RunEndEncodedArray.from_arrays(ends, pa.array([b"0" * 16] * N, pa.uuid())),
        "lists of no length": lengthless,
        "one name twice": pa.StructArray.from_arrays([days, pa.array(range(N))], fields=twice),
        "lists of unions": pa.nulls(N, pa.list_view(pa.dense_union([pa.field("a", pa.int8())]))),
        "a tensor whose axes change places": pa.nulls(N, pa.fixed_shape_tensor(pa.int16(), [2, 1], permutation=[1, 0])),
    }


@pytest.mark.parametrize("name", odd_columns())
def test_odd_types_come_out_or_are_refused(
    tmp_path: Path, nla: Callable[..., int], gateway: FakeGateway, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = odd_columns()[name]
    save_ipc(pa.table({"activation_vector": vectors(), "odd": odd}), tmp_path / "in.arrow")
    if nla(tmp_path / "in.arrow") == 0:
        out = pq.read_table(tmp_path / "out.parquet")["odd"]
        assert [value for chunk in out.chunks for value in bits(chunk)] == bits(odd)
        assert "union" not in name
    else:
        assert gateway.seen == []
        assert "in.arrow: column 'odd'" in capsys.readouterr().err
    assert nla(tmp_path / "in.arrow", "--where", "1 = 1", "--drop", "odd", out="other.parquet") == 0


def test_columns_that_are_dropped_refuse_nothing(tmp_path: Path, nla: Callable[..., int], gateway: FakeGateway) -> None:
    for k, kind in enumerate((pa.struct([]), pa.month_day_nano_interval(), pa.decimal256(60, 3), pa.string_view())):
        odd = pa.nulls(N, kind)
        table = pa.table({"activation_vector": vectors(), "layer": [20, 21] * 45, "odd": odd, "More": odd, "more": odd})
        save_ipc(table, tmp_path / f"{k}.arrow")
        dropped = [part for name in ("odd", "More", "more") for part in ("--drop", name)]
        assert nla(tmp_path / f"{k}.arrow", "--where", "layer = 20", *dropped, out=f"{k}.parquet") == 0
        assert pq.read_metadata(tmp_path / f"{k}.parquet").num_rows == 45


def test_a_condition_on_a_column_that_cannot_be_read(tmp_path: Path, refused: Callable[..., str]) -> None:
    save_lines(tmp_path / "in.jsonl", [{"activation_vector": X[0].tolist(), "x": value} for value in (1, "1")])
    error = refused(tmp_path / "in.jsonl", "--where", "x = 1", "--drop", "x")
    assert "in.jsonl: column 'x' holds numbers and texts" in error


def test_a_name_for_two_columns(tmp_path: Path, nla: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    table = pa.Table.from_arrays([vectors(), pa.array(range(N)), pa.array(range(N))], ["activation_vector", "x", "x"])
    save_ipc(table, tmp_path / "in.arrow")
    assert nla(tmp_path / "in.arrow") == 2
    assert "in.arrow: column 'x' stands for two columns" in capsys.readouterr().err
    assert nla(tmp_path / "in.arrow", "--drop", "x") == 0


def test_names_with_dots(tmp_path: Path, nla: Callable[..., int]) -> None:
    table = {"activation_vector": vectors(), "a": [{"b": 1}] * N, "a.b": range(N), "a.b.c": range(N)}
    pq.write_table(pa.table(table), tmp_path / "in.parquet")
    assert nla(tmp_path / "in.parquet", "--drop", "a.b.c") == 0
    assert column(tmp_path, "a.b") == list(range(N))
    assert column(tmp_path, "a") == [{"b": 1}] * N
    assert "a.b.c" not in pq.read_schema(tmp_path / "out.parquet").names


def test_hive_folders(tmp_path: Path, nla: Callable[..., int]) -> None:
    columns = {"layer": [20] * 45 + [21] * 45, "doc": ["007", None, "a/b c"] * 30}
    table = pa.table({"activation_vector": vectors(), **columns})
    pq.write_to_dataset(table, tmp_path / "hive", partition_cols=["layer", "doc"])
    assert nla(tmp_path / "hive", "--where", "layer = 20") == 0
    assert column(tmp_path, "layer") == [20] * 45
    assert sorted(map(str, column(tmp_path, "doc"))) == sorted(map(str, columns["doc"][:45]))
    # The folders may also be named themselves, or by a glob.
    for given in (tmp_path / "hive" / "layer=21", tmp_path / "hive" / "layer=*1" / "*" / "*.parquet"):
        (tmp_path / "out.parquet").unlink()
        assert nla(given) == 0
        assert column(tmp_path, "layer") == [21] * 45


def test_a_files_own_column_counts_and_not_its_folders(tmp_path: Path, nla: Callable[..., int]) -> None:
    (tmp_path / "layer=20").mkdir()
    table = pa.table({"activation_vector": vectors(), "layer": range(N)})
    pq.write_table(table, tmp_path / "layer=20" / "in.parquet")
    assert nla(tmp_path / "layer=20") == 0
    assert column(tmp_path, "layer") == list(range(N))


def test_json_lines_whose_types_widen_late(tmp_path: Path, nla: Callable[..., int]) -> None:
    values = {"score": [1] * 190 + [0.5] * 10, "none": [None] * 199 + ["a"], "more": [[]] * 199 + [[{"a": 1}]]}
    rows = [{name: column[k] for name, column in values.items()} for k in range(200)]
    pad = "x" * 100_000
    with (tmp_path / "in.jsonl").open("w") as file:
        for k, row in enumerate(rows):
            file.write(json.dumps({"activation_vector": X[k % N].tolist(), "pad": pad, **row}) + "\n")
    assert nla(tmp_path / "in.jsonl", "--drop", "pad") == 0
    for name, wanted in values.items():
        assert column(tmp_path, name) == wanted


def test_json_values_come_out_as_they_are(tmp_path: Path, nla: Callable[..., int]) -> None:
    values: dict[str, list[Any]] = {
        "id": [LIMIT + 1, 2**63 - 1, -(2**63)],
        "unsigned": [2**64 - 1, 0, 1],
        "ids": [[LIMIT + 1], [], None],
        "day": ["2024-01-01", "2024-01-01T00:00:00", "2024-01-01 00:00:00Z"],
        "number": [-0.0, 5e-324, 1e300],
        "deep": [{"a": [{"b": "2024-01-01"}]}, {"a": []}, {"a": None}],
        "flag": [True, None, False],
    }
    rows = [{name: column[k] for name, column in values.items()} for k in range(3)]
    save_lines(tmp_path / "in.jsonl", [{"activation_vector": X[k].tolist(), **row} for k, row in enumerate(rows)])
    assert nla(tmp_path / "in.jsonl") == 0
    for name, wanted in values.items():
        assert column(tmp_path, name) == wanted
    assert str(column(tmp_path, "number")[0]) == "-0.0"


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([LIMIT + 1, 0.5], "holds integers above 2^53 beside numbers with fractions"),
        ([2**64, 1], "holds integers of more than 64 bits"),
        ([-(2**63) - 1, 1], "holds integers of more than 64 bits"),
        ([2**63, -1], "holds integers of more than 64 bits"),
        ([[2**70], []], "holds integers of more than 64 bits"),
        ([1, "1"], "holds numbers and texts"),
        ([True, 1], "holds numbers and true or false"),
        ([{"a": 1}, [1]], "holds lists and objects"),
    ],
)
def test_json_values_that_no_type_keeps(
    tmp_path: Path, refused: Callable[..., str], nla: Callable[..., int], values: list[Any], reason: str
) -> None:
    given = tmp_path / "in.jsonl"
    save_lines(given, [{"activation_vector": X[k].tolist(), "x": value} for k, value in enumerate(values)])
    assert f"in.jsonl: column 'x' {reason}" in refused(given)
    assert nla(given, "--drop", "x") == 0


@pytest.mark.parametrize(
    ("line", "message"),
    [("{", "in.jsonl, line 2: not JSON"), ("[1]", "line 2: not an object"), ('{"x": "\\ud800"}', "line 2: not JSON")],
)
def test_lines_that_are_not_json(tmp_path: Path, refused: Callable[..., str], line: str, message: str) -> None:
    good = json.dumps({"activation_vector": X[0].tolist()})
    (tmp_path / "in.jsonl").write_text(f"{good}\n{line}\n{good}\n")
    assert message in refused(tmp_path / "in.jsonl")


def test_json_as_python_writes_it(tmp_path: Path, nla: Callable[..., int]) -> None:
    rows = [{"activation_vector": X[k].tolist(), "x": value} for k, value in enumerate([float("nan"), 1, float("inf")])]
    text = "\ufeff" + "\r\n\r\n".join(map(json.dumps, rows))
    (tmp_path / "in.jsonl").write_text(text)
    assert nla(tmp_path / "in.jsonl") == 0
    assert [str(value) for value in column(tmp_path, "x")] == ["nan", "1.0", "inf"]


def test_an_object_array_in_an_npz(tmp_path: Path, nla: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    records = np.zeros(N, [("a", "i4")])
    texts = np.array(["a"] * N, object)
    np.savez(
        tmp_path / "in.npz", activation_vector=X, text=texts, records=records, z=np.zeros(N, complex), doc=["é"] * N
    )
    assert nla(tmp_path / "in.npz") == 0
    assert column(tmp_path, "doc") == ["é"] * N
    error = capsys.readouterr().err
    for left_out in (
        "'text', which holds Python objects",
        "'records', which holds records",
        "'z', which holds complex",
    ):
        assert left_out in error
    np.savez(tmp_path / "bad.npz", activation_vector=np.array([{}] * N, object))
    assert nla(tmp_path / "bad.npz", out="other.parquet") == 2
    assert "'activation_vector' holds Python objects" in capsys.readouterr().err


ONE: Final[dict[str, Callable[[Path], Any]]] = {
    "a.npy": lambda path: np.save(path, X[0]),
    "a.npz": lambda path: np.savez(path, activation_vector=X[0], layer=[20]),
    "a.safetensors": lambda path: safetensors.numpy.save_file({"activation_vector": X[0]}, path),
    "bits.safetensors": lambda path: safetensors.torch.save_file(
        {"activation_vector": torch.from_numpy(X[0]).bfloat16()}, path
    ),
    "a.pt": lambda path: torch.save(torch.from_numpy(X[0]), path),
    "bits.pt": lambda path: torch.save({"activation_vector": torch.from_numpy(X[0]).bfloat16()}, path),
}


@pytest.mark.parametrize("name", ONE)
def test_one_vector_from_every_file(tmp_path: Path, nla: Callable[..., int], name: str) -> None:
    ONE[name](tmp_path / name)
    assert nla(tmp_path / name, "--keep-vectors") == 0
    assert len(column(tmp_path, "activation_vector")) == 1
    assert len(column(tmp_path, "activation_vector")[0]) == D


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("columns", [False, True])
def test_arrays_in_any_order(tmp_path: Path, nla: Callable[..., int], order: str, columns: bool) -> None:
    array = X.astype(f"{order}f4")
    array = np.asfortranarray(array) if columns else array
    np.save(tmp_path / "a.npy", array)
    np.savez(tmp_path / "b.npz", activation_vector=array)
    assert nla(tmp_path / "a.npy", tmp_path / "b.npz", "--keep-vectors") == 0
    np.testing.assert_array_equal(column(tmp_path, "activation_vector"), np.concatenate([X, X]))


SHAPED: Final[dict[str, Callable[[Path, Any], Any]]] = {
    "a.npy": np.save,
    "a.npz": lambda path, array: np.savez(path, activation_vector=array),
    "a.safetensors": lambda path, array: safetensors.numpy.save_file({"activation_vector": array}, path),
    "a.pt": lambda path, array: torch.save(torch.from_numpy(array), path),
    "a.arrow": lambda path, array: save_ipc(
        pa.table({"activation_vector": pa.FixedShapeTensorArray.from_numpy_ndarray(array)}), path
    ),
}


@pytest.mark.parametrize("name", SHAPED)
def test_a_matrix_for_each_row_is_no_vector(tmp_path: Path, refused: Callable[..., str], name: str) -> None:
    SHAPED[name](tmp_path / name, X.reshape(N, 2, D // 2))
    assert "not vectors" in refused(tmp_path / name)


def test_shapes_of_what_goes_along_stay(tmp_path: Path, nla: Callable[..., int]) -> None:
    extra = np.arange(N * 6).reshape(N, 2, 3)
    np.savez(tmp_path / "in.npz", activation_vector=X, extra=extra)
    assert nla(tmp_path / "in.npz") == 0
    assert column(tmp_path, "extra") == extra.tolist()


def test_a_folder_of_all_kinds(tmp_path: Path, nla: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    table = pa.table({"activation_vector": list(X[:3])})
    for name in ("a.parquet", "b.pq", "c.PARQ"):
        pq.write_table(table, folder / name)
    with gzip.open(folder / "d.jsonl.gz", "wt") as lines:
        lines.writelines(json.dumps({"activation_vector": vector.tolist()}) + "\n" for vector in X[3:6])
    for name in ("notes.txt", "x.csv", "x.npy.gz", "model.bin", "README.md", "_SUCCESS"):
        (folder / name).write_text("no rows")
    assert nla(folder) == 0
    assert len(column(tmp_path, "explanation")) == 12
    error = capsys.readouterr().err
    assert "left out" in error
    for name in ("model.bin", "notes.txt", "x.csv and 1 more".replace("x.csv", f"{folder}/x.csv")):
        assert name in error
    assert "README" not in error
    assert "_SUCCESS" not in error


def test_a_folder_that_datasets_has_saved(tmp_path: Path, nla: Callable[..., int]) -> None:
    rows = {"activation_vector": list(X), "token": [f"t{k}" for k in range(N)]}
    saved = datasets.Dataset.from_dict(rows)
    saved.save_to_disk(tmp_path / "in", num_shards=3)
    save_ipc(pa.table({"other": [1]}), tmp_path / "in" / "cache-0.arrow")
    assert nla(tmp_path / "in") == 0
    assert column(tmp_path, "token") == rows["token"]
    datasets.DatasetDict({"a": saved, "b": saved.select(range(9, -1, -1))}).save_to_disk(tmp_path / "dict")
    assert nla(tmp_path / "dict", out="dict.parquet") == 0
    assert pq.read_table(tmp_path / "dict.parquet")["token"].to_pylist() == rows["token"] + rows["token"][9::-1]


@pytest.mark.parametrize("state", [{"_data_files": [{"filename": "gone.arrow"}]}, {"_indices_files": [1]}])
def test_saved_folders_that_are_not_whole(
    tmp_path: Path, nla: Callable[..., int], capsys: pytest.CaptureFixture[str], state: dict[str, Any]
) -> None:
    pq.write_table(pa.table({"activation_vector": list(X)}), tmp_path / "a.parquet")
    (tmp_path / "state.json").write_text(json.dumps(state))
    assert nla(tmp_path) == 2
    assert "state.json: " in capsys.readouterr().err


def test_a_late_row_is_read_from_the_middle(tmp_path: Path, nla: Callable[..., int]) -> None:
    """Going on after an interruption reads JSON lines from any row: their types are those of the whole."""
    rows = [{"activation_vector": X[k % N].tolist(), "x": k if k < 999 else 0.5} for k in range(1000)]
    save_lines(tmp_path / "in.jsonl", rows)
    began = time.monotonic()
    assert nla(tmp_path / "in.jsonl", "--limit", 1000) == 0
    assert time.monotonic() - began < 60
    assert column(tmp_path, "x") == [row["x"] for row in rows]
