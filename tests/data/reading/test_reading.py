"""Every kind of file, read in pieces from any row on, on local disks."""

import bz2
import gzip
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import ml_dtypes
import numpy as np
import orjson
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch

from nla_data.errors import UsageError
from nla_data.reading import files, readers, vectors
from nla_data.reading.source import Position, Source

D: Final = 8
COUNT: Final = 100
VECTORS: Final = np.random.default_rng(0).standard_normal((COUNT, D)).astype(np.float32).astype(ml_dtypes.bfloat16)
"""Values that every dtype but float16 holds exactly."""
EXACT: Final = VECTORS.astype(np.float32)
LAYERS: Final = np.arange(COUNT) % 3


def fixed(array: Any) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(array.reshape(-1)), D)


def table(column: pa.Array) -> pa.Table:
    return pa.table({"token": [f"t{k}" for k in range(COUNT)], "activation_vector": column, "layer": LAYERS})


def lists(dtype: Any) -> pa.Array:
    return pa.array(list(EXACT.astype(dtype)), pa.list_(pa.from_numpy_dtype(dtype)))


COLUMNS: Final[dict[str, Callable[[], pa.Array]]] = {
    "list of float16": lambda: lists(np.float16),
    "list of float32": lambda: lists(np.float32),
    "list of float64": lambda: lists(np.float64),
    "large list": lambda: lists(np.float32).cast(pa.large_list(pa.float32())),
    "fixed-size list of float32": lambda: fixed(EXACT),
    "fixed-size list of float16": lambda: fixed(EXACT.astype(np.float16)),
    "bfloat16 as uint16": lambda: fixed(VECTORS.view(np.uint16)),
    "bfloat16 as bytes": lambda: pa.array([row.tobytes() for row in VECTORS]),
    "float32 as bytes": lambda: pa.array([row.tobytes() for row in EXACT], pa.large_binary()),
    "bfloat16 as bytes of one size": lambda: pa.array([row.tobytes() for row in VECTORS], pa.binary(2 * D)),
    "tensor": lambda: pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(pa.float32(), [D]), fixed(EXACT)),
}


BEGIN: Final = Position()


def read_all(path: Path | str, size: int = 7, start: Position = BEGIN, **options: Any) -> tuple[Any, Any, list[Any]]:
    """Vectors, tokens or layers beside them, and the pieces."""
    source = Source(files.find([str(path)]), "activation_vector", **options)
    source.use(source.columns.names)
    vectors.check_type(source.schema.field("activation_vector").type, "activation_vector")
    pieces = list(source.pieces(start, size))
    checked = [vectors.read(piece.table.column("activation_vector"), D) for piece in pieces]
    assert all(reason is None for one in checked for reason in one.reasons)
    tables = [piece.table for piece in pieces if "layer" in piece.table.schema.names]
    layers = [value for table in tables for value in table["layer"].to_pylist()]
    return np.concatenate([one.vectors for one in checked] or [np.empty((0, D))]), layers, pieces


@pytest.mark.parametrize("name", COLUMNS)
def test_parquet_columns(tmp_path: Path, name: str) -> None:
    pq.write_table(table(COLUMNS[name]()), tmp_path / "a.parquet", row_group_size=30)
    read, layers, pieces = read_all(tmp_path / "a.parquet")
    wanted = EXACT.astype(np.float16).astype(np.float32) if "float16" in name.split() else EXACT
    np.testing.assert_array_equal(read, wanted)
    assert layers == LAYERS.tolist()
    assert [piece.table.num_rows for piece in pieces] == [7] * 14 + [2]
    assert np.concatenate([piece.numbers for piece in pieces]).tolist() == list(range(COUNT))


def save_npz(path: Path) -> None:
    np.savez(path, activation_vector=EXACT, layer=LAYERS, name=np.array("all"), other=np.ones((3, D)))


def save_arrow(path: Path) -> None:
    with pa.ipc.new_file(path, table(fixed(EXACT)).schema) as writer:
        writer.write_table(table(fixed(EXACT)), max_chunksize=30)


def save_stream(path: Path) -> None:
    with pa.ipc.new_stream(path, table(fixed(EXACT)).schema) as writer:
        writer.write_table(table(fixed(EXACT)), max_chunksize=30)


def save_json(path: Path) -> None:
    rows = ({"activation_vector": row.tolist(), "layer": int(layer)} for row, layer in zip(EXACT, LAYERS, strict=True))
    path.write_bytes(b"\n".join(orjson.dumps(row) for row in rows))


def packed(path: Path, pack: Callable[[bytes], bytes]) -> None:
    save_json(path)
    path.write_bytes(pack(path.read_bytes()))


def as_tensors() -> dict[str, torch.Tensor]:
    return {"activation_vector": torch.from_numpy(EXACT).bfloat16(), "layer": torch.from_numpy(LAYERS)}


def save_safetensors(path: Path) -> None:
    safetensors.torch.save_file(as_tensors() | {"other": torch.ones(3)}, path)


SAVERS: Final[dict[str, Callable[[Path], Any]]] = {
    "a.npz": save_npz,
    "compressed.npz": lambda path: np.savez_compressed(path, activation_vector=EXACT, layer=LAYERS),
    "a.npy": lambda path: np.save(path, EXACT),
    "bfloat16.npy": lambda path: np.save(path, VECTORS),
    "big-endian.npy": lambda path: np.save(path, EXACT.astype(">f4")),
    "by columns.npy": lambda path: np.save(path, np.asfortranarray(EXACT)),
    "big-endian, by columns.npz": lambda path: np.savez(
        path, activation_vector=np.asfortranarray(EXACT.astype(">f8")), layer=LAYERS.astype(">i8")
    ),
    "a.arrow": save_arrow,
    "stream.arrow": save_stream,
    "a.jsonl": save_json,
    "a.jsonl.gz": lambda path: packed(path, gzip.compress),
    "a.ndjson.bz2": lambda path: packed(path, bz2.compress),
    "a.JSONL.ZST": lambda path: packed(path, lambda content: pa.Codec("zstd").compress(content, asbytes=True)),
    "a.pq": lambda path: pq.write_table(table(fixed(EXACT)), path, row_group_size=30),
    "a.parq": lambda path: pq.write_table(table(fixed(EXACT)), path, row_group_size=30),
    "a.safetensors": save_safetensors,
    "dict.pt": lambda path: torch.save(as_tensors(), path),
    "tensor.pt": lambda path: torch.save(torch.from_numpy(EXACT), path),
}


@pytest.mark.parametrize("name", SAVERS)
def test_other_files(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "MAX_BATCH_ROWS", 30)
    SAVERS[name](tmp_path / name)
    read, layers, _ = read_all(tmp_path / name)
    np.testing.assert_array_equal(read, EXACT)
    assert layers in (LAYERS.tolist(), [])


@pytest.mark.parametrize("name", ["a.parquet", *SAVERS])
def test_reading_goes_on_from_any_row(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "MAX_BATCH_ROWS", 30)
    SAVERS.get(name, lambda path: pq.write_table(table(fixed(EXACT)), path, row_group_size=30))(tmp_path / name)
    _, _, pieces = read_all(tmp_path / name, size=9)
    for piece in pieces:
        rest, _, after = read_all(tmp_path / name, start=piece.end)
        np.testing.assert_array_equal(rest, EXACT[piece.numbers[-1] + 1 :])
        assert not after or after[0].numbers[0] == piece.numbers[-1] + 1


def test_folders_globs_and_order(tmp_path: Path) -> None:
    for part in (2, 10, 1):
        pq.write_table(table(fixed(EXACT + part)), tmp_path / f"part-{part:02d}.parquet")
    (tmp_path / "_hidden.parquet").write_text("no")
    (tmp_path / "notes.txt").write_text("no")
    wanted = np.concatenate([EXACT + part for part in (1, 2, 10)]).astype(np.float32)
    for given in (tmp_path, tmp_path / "part-*.parquet", tmp_path / "**" / "*.parquet", f"file://{tmp_path}"):
        read, _, pieces = read_all(given, size=64)
        np.testing.assert_array_equal(read, wanted)
        assert np.concatenate([piece.numbers for piece in pieces]).tolist() == list(range(300))
    assert len(read_all(tmp_path / "part-?0.parquet")[0]) == COUNT


@pytest.mark.parametrize("limit", [None, 0, 1, 20, 34])
def test_where_and_limit(tmp_path: Path, limit: int | None) -> None:
    for part in range(3):
        pq.write_table(table(fixed(EXACT + part)), tmp_path / f"{part}.parquet", row_group_size=10)
    where = "layer = 1 AND token <> 't4'"
    wanted = [100 * part + k for part in range(3) for k in range(COUNT) if k % 3 == 1 and k != 4][:limit]
    _, _, pieces = read_all(tmp_path, where=where, limit=limit)
    assert [int(number) for piece in pieces for number in piece.numbers] == wanted
    assert {piece.table.num_rows for piece in pieces[:-1]} <= {7}
    for piece in pieces[::3]:
        rest = read_all(tmp_path, start=piece.end, where=where, limit=limit)[2]
        assert [int(number) for one in rest for number in one.numbers] == wanted[piece.end.kept :]


def test_columns_may_stand_in_another_order(tmp_path: Path) -> None:
    first = table(fixed(EXACT))
    pq.write_table(first, tmp_path / "1.parquet")
    pq.write_table(first.select(["layer", "activation_vector", "token"]), tmp_path / "2.parquet")
    assert {tuple(piece.table.schema.names) for piece in read_all(tmp_path)[2]} == {tuple(first.schema.names)}


def test_columns_that_some_files_lack_are_null_there(tmp_path: Path) -> None:
    first = table(fixed(EXACT))
    pq.write_table(first.drop(["layer"]), tmp_path / "1.parquet")
    pq.write_table(first.drop(["token"]).append_column("x", [LAYERS]), tmp_path / "2.parquet")
    _, layers, pieces = read_all(tmp_path, size=64)
    assert layers == [None] * COUNT + LAYERS.tolist()
    whole = pa.Table.from_batches([piece.table for piece in pieces])
    assert whole["token"].to_pylist() == [f"t{k}" for k in range(COUNT)] + [None] * COUNT
    assert whole["x"].to_pylist() == [None] * COUNT + LAYERS.tolist()
    _, _, pieces = read_all(tmp_path, where="layer IS NULL AND token = 't4' OR x = 1")
    assert [int(number) for piece in pieces for number in piece.numbers] == [4, *range(101, 200, 3)]


def broken(path: Path, cut: int = 40) -> Path:
    path.write_bytes(path.read_bytes()[:-cut])
    return path


def wrong_inputs() -> dict[str, tuple[Callable[[Path], Any], str]]:
    def two(path: Path, other: pa.Table) -> Path:
        pq.write_table(table(fixed(EXACT)), path / "1.parquet")
        pq.write_table(other, path / "2.parquet")
        return path

    def saved(name: str, path: Path) -> Path:
        SAVERS[name](path / name)
        return path / name

    def written(path: Path, content: bytes) -> Path:
        path.write_bytes(content)
        return path

    plain = table(fixed(EXACT))
    return {
        "no such file": (lambda p: p / "none.parquet", "there is no such file or folder"),
        "no such bucket kind": (lambda p: "ftp://x/y.parquet", "ftp"),
        "empty folder": (lambda p: p, "no file there ends in"),
        "unknown kind": (lambda p: written(p / "a.csv", b"1,2"), "not a kind of file that can be read"),
        "not parquet": (lambda p: written(p / "a.parquet", b"hello"), "not a whole .parquet file"),
        "cut parquet": (lambda p: broken(saved_parquet(p)), "not a whole .parquet file"),
        "cut npy": (lambda p: broken(saved("a.npy", p)), "ends before its last row"),
        "cut npz": (lambda p: broken(saved("a.npz", p)), "not a whole .npz file"),
        "cut safetensors": (lambda p: broken(saved("a.safetensors", p)), "breaks off"),
        "no safetensors": (lambda p: written(p / "a.safetensors", b"x" * 100), "not a safetensors file"),
        "cut arrow": (lambda p: broken(saved("stream.arrow", p), 400), "breaks off or is damaged"),
        "bad json": (lambda p: written(p / "a.jsonl", b'{"activation_vector": [1.0'), "a.jsonl"),
        "pickle": (lambda p: torch.save({"x": Path("x")}, p / "a.pt") or p / "a.pt", "no file of plain tensors"),
        "objects": (lambda p: np.save(p / "a.npy", np.array([{}, 1], object)) or p / "a.npy", "Python objects"),
        "one number": (lambda p: np.save(p / "a.npy", np.float32(1)) or p / "a.npy", "a single number"),
        "other column name": (lambda p: np.savez(p / "a.npz", acts=EXACT) or p / "a.npz", "it has acts"),
        "no vectors": (lambda p: two(p, plain.drop(["activation_vector"])), "2.parquet: has no column 'activation_v"),
        "other types": (lambda p: two(p, table(COLUMNS["bfloat16 as bytes"]())), "column 'activation_vector' is"),
        "bits beside numbers": (
            lambda p: two(p, table(COLUMNS["bfloat16 as uint16"]())),
            "column 'activation_vector' is fixed_size_list<element: uint16>[8], in",
        ),
    }  # fmt: skip


def saved_parquet(path: Path) -> Path:
    pq.write_table(table(fixed(EXACT)), path / "a.parquet")
    return path / "a.parquet"


@pytest.mark.parametrize("name", wrong_inputs())
def test_wrong_inputs_give_one_clear_line(tmp_path: Path, name: str) -> None:
    make, message = wrong_inputs()[name]
    with pytest.raises(UsageError) as caught:
        read_all(make(tmp_path))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("layr = 1", "layr"),
        ("layer =", "syntax"),
        ("token + 1", "No function matches"),
        ("1=1); DROP TABLE rows; --", "syntax"),
        ("1=1); SELECT (1=1", "must be one condition"),
        ("row_number() OVER (ORDER BY layer DESC) = 1", "window"),
        ("max(layer) > 1", "aggregate"),
        ("unnest([true, true])", "UNNEST"),
    ],
)
def test_wrong_conditions(tmp_path: Path, where: str, message: str) -> None:
    with pytest.raises(UsageError, match="--where") as caught:
        read_all(saved_parquet(tmp_path), where=where)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("where", ['"odd \'name" = 1', "layer IS NULL", "a.layer"])
def test_odd_columns(tmp_path: Path, where: str) -> None:
    columns = {"odd 'name": [1, 2, None], "layer": [None, 1, 2], "a.layer": [True, False, None]}
    halves = pa.array([1.0, 2.0, 3.0], pa.float16())
    pq.write_table(pa.table({**columns, "half": halves, "activation_vector": list(EXACT[:3])}), tmp_path / "a.parquet")
    where = '"a.layer"' if where == "a.layer" else where
    assert [piece.numbers.tolist() for piece in read_all(tmp_path, where=where)[2]] == [[0]]


def test_columns_that_differ_in_case_alone(tmp_path: Path) -> None:
    pq.write_table(pa.table({"A": [1], "a": [2], "activation_vector": list(EXACT[:1])}), tmp_path / "a.parquet")
    with pytest.raises(UsageError, match="apart"):
        read_all(tmp_path, where="a = 1")


def test_arrays_in_folders_of_an_npz(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **{"l20/v": EXACT, "l21/v": 2 * EXACT})
    source = Source(files.find([str(tmp_path)]), "l20/v")
    assert source.schema.names == ["l20/v", "l21/v"]
    piece = next(source.pieces(BEGIN, 1))
    np.testing.assert_array_equal(piece.table["l20/v"].to_pylist()[0], EXACT[0])


def test_more_files_than_may_be_open(tmp_path: Path) -> None:
    for part in range(60):
        np.save(tmp_path / f"{part:03d}.npy", EXACT[:2])
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(list(Path("/proc/self/fd").iterdir())) + 20, hard))
    try:
        assert len(read_all(tmp_path)[0]) == 120
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_hidden_folders_and_the_output_are_no_input(tmp_path: Path) -> None:
    saved_parquet(tmp_path)
    for folder in (".ipynb_checkpoints", "_old", "out.parquet.parts"):
        (tmp_path / folder).mkdir()
        saved_parquet(tmp_path / folder)
    found = files.find([str(tmp_path)], [str(tmp_path / "out.parquet.parts")])
    assert [file.path for file in found] == [str(tmp_path / "a.parquet")]


def test_what_may_be_null_in_one_file_alone(tmp_path: Path) -> None:
    strict = pa.schema(
        [pa.field("i", pa.int64(), nullable=False), pa.field("activation_vector", pa.list_(pa.float32()))]
    )
    for name, values, schema in (("1", [1], strict), ("2", [None], None)):
        rows = pa.table({"i": pa.array(values, pa.int64()), "activation_vector": list(EXACT[:1])}, schema)
        pq.write_table(rows, tmp_path / f"{name}.parquet")
    assert [value for piece in read_all(tmp_path, size=1)[2] for value in piece.table["i"].to_pylist()] == [1, None]


def test_an_input_named_twice(tmp_path: Path) -> None:
    path = str(saved_parquet(tmp_path))
    with pytest.raises(UsageError, match="twice"):
        files.find([path, path])
