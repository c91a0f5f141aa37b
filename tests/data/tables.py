"""Tables of any Arrow types with any bits in them, files made of them, and their bits, to be compared."""

import math
from bisect import bisect_right
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc
import pyarrow.parquet as pq
from hypothesis import strategies as st

from tests.data.arrow_types import TEXTS, UNITS


@st.composite
def arrays(draw: st.DrawFn, kind: Any, size: int, nullable: bool = True) -> Any:  # noqa: PLR0911 - a kind each
    """An array of a type, with values missing where they may."""
    there = st.booleans() if nullable else st.just(True)
    valid = draw(st.lists(there, min_size=size, max_size=size))
    null = pa.array([not one for one in valid], pa.bool_())
    if isinstance(kind, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(kind, draw(arrays(kind.storage_type, size, nullable)))
    if pa.types.is_dictionary(kind):
        values = draw(arrays(kind.value_type, 3, nullable))
        places = [draw(st.integers(0, 2)) if one else None for one in valid]
        return pa.DictionaryArray.from_arrays(pa.array(places, kind.index_type), values, ordered=kind.ordered)
    if pa.types.is_run_end_encoded(kind):
        ends = sorted({*draw(st.lists(st.integers(1, size), max_size=3)), size}) if size else []
        values = draw(arrays(kind.value_type, len(ends), nullable))
        return pa.RunEndEncodedArray.from_arrays(pa.array(ends, kind.run_end_type), values)
    if pa.types.is_struct(kind):
        parts = [draw(arrays(field.type, size, field.nullable)) for field in kind]
        return pa.StructArray.from_arrays(parts, fields=list(kind), mask=null) if parts else pa.nulls(size, kind)
    if pa.types.is_union(kind):
        return _union(kind, size, draw)
    if pa.types.is_nested(kind):
        return _rows(kind, size, null, draw)
    return _leaves(kind, valid, draw)


def _union(kind: Any, size: int, draw: st.DrawFn) -> Any:
    codes = pa.array(draw(st.lists(st.sampled_from(kind.type_codes), min_size=size, max_size=size)), pa.int8())
    parts = [draw(arrays(field.type, size, field.nullable)) for field in kind]
    about = ([field.name for field in kind], kind.type_codes)
    if kind.mode == "sparse":
        return pa.UnionArray.from_sparse(codes, parts, *about)
    return pa.UnionArray.from_dense(codes, pa.array(range(size), pa.int32()), parts, *about)


def _rows(kind: Any, size: int, null: Any, draw: st.DrawFn) -> Any:
    """Lists and maps."""
    if pa.types.is_fixed_size_list(kind):
        values = draw(arrays(kind.value_type, size * kind.list_size, kind.value_field.nullable))
        return pa.Array.from_buffers(kind, size, [pc.invert(null).buffers()[1]], children=[values])
    lengths = draw(st.lists(st.integers(0, 3), min_size=size, max_size=size))
    offsets = np.cumsum([0, *lengths])
    total = int(offsets[-1])
    if pa.types.is_map(kind):
        keys = draw(arrays(kind.key_type, total, nullable=False))
        items = draw(arrays(kind.item_type, total, kind.item_field.nullable))
        return pa.MapArray.from_arrays(pa.array(offsets, pa.int32()), keys, items, type=kind, mask=null)
    values = draw(arrays(kind.value_type, total, kind.value_field.nullable))
    large = pa.types.is_large_list(kind) or pa.types.is_large_list_view(kind)
    width = pa.int64() if large else pa.int32()
    is_view = pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind)
    numbers = [offsets[:-1], lengths] if is_view else [offsets]
    content = [pc.invert(null), *(pa.array(one, width) for one in numbers)]
    return pa.Array.from_buffers(kind, size, [one.buffers()[1] for one in content], children=[values])


def _leaves(kind: Any, valid: Sequence[bool], draw: st.DrawFn) -> Any:
    """Texts and bytes, and numbers of any bits."""
    size = len(valid)
    texts = kind in (pa.string(), pa.large_string(), pa.string_view())
    if pa.types.is_null(kind):
        return pa.nulls(size)
    if texts or kind in (pa.binary(), pa.large_binary(), pa.binary_view(), pa.bool_()):
        one = TEXTS if texts else st.booleans() if kind == pa.bool_() else st.binary(max_size=4)
        values = draw(st.lists(one, min_size=size, max_size=size))
        return pa.array([value if there else None for value, there in zip(values, valid, strict=True)], kind)
    width = kind.byte_width
    if not width:
        return pa.array([b"" if there else None for there in valid], kind)
    is_time = pa.types.is_time(kind)
    numbers = st.integers(0, 86_400 * 10**9 // UNITS[kind.unit] - 1) if is_time else st.integers(-9999, 9999)
    if kind == pa.date64():
        numbers = numbers.map(lambda day: 86_400_000 * day)
    small = numbers.map(lambda n: n.to_bytes(width, "little", signed=True)) if width > 1 else st.binary(max_size=0)
    anything = st.binary(min_size=width, max_size=width)
    one = small if pa.types.is_decimal(kind) or is_time else st.one_of(small, anything) if width > 1 else anything
    content = b"".join(draw(st.lists(one, min_size=size, max_size=size)))
    there = pa.array(valid, pa.bool_()).buffers()[1]
    return pa.Array.from_buffers(kind, size, [there, pa.py_buffer(content)])


def save(table: pa.Table, path: Path, chunk: int) -> Path:
    """Save a table in a file, by the ending of its name; what parquet cannot hold, as Arrow."""
    if path.suffix == ".parquet":
        try:
            pq.write_table(table, path, row_group_size=chunk)
            load(path)
        except (pa.ArrowException, OSError):
            path.unlink(missing_ok=True)
            return save(table, path.with_suffix(".arrow"), chunk)
        return path
    create = pa.ipc.new_stream if path.suffix == ".arrows" else pa.ipc.new_file
    with create(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=chunk)
    return path


def load(path: Path) -> pa.Table:
    """What a file holds."""
    if path.suffix == ".parquet":
        file = pq.ParquetFile(path)
        # Of no rows, pyarrow cannot read some types: it ends the process.
        schema = file.schema_arrow
        empty = pa.table([pa.nulls(0, kind) for kind in schema.types], schema=schema)
        return file.read() if file.metadata.num_rows else empty
    read = pa.ipc.open_stream if path.suffix == ".arrows" else pa.ipc.open_file
    return read(path.read_bytes()).read_all()


def bits(column: Any) -> list[Any]:
    """The values of an array, floats as their bits, moments in nanoseconds: alike in all types."""
    kind = column.type
    if isinstance(kind, pa.BaseExtensionType):
        return bits(column.storage)
    if pa.types.is_dictionary(kind):
        return _from_dictionary(column, bits(column.dictionary))
    if pa.types.is_run_end_encoded(kind):
        return _from_runs(column, bits(column.values))
    if pa.types.is_struct(kind):
        parts = zip(*map(bits, column.flatten()), strict=True) if kind.num_fields else [()] * len(column)
        return [row if there else None for row, there in zip(parts, column.is_valid().to_pylist(), strict=True)]
    if pa.types.is_nested(kind):
        return [bits(row.values) if row.is_valid else None for row in column]
    return _leaf_bits(column)


def _from_fields(column: Any, parts: Sequence[Sequence[Any]]) -> list[Any]:
    """The fields of structs by their names, and places where names stand for two; without those that are missing."""
    names = [field.name for field in column.type]
    keys = [(name, names[:k].count(name)) for k, name in enumerate(names)]
    rows = [
        {key: part[k] for key, part in zip(keys, parts, strict=True) if part[k] is not None} for k in range(len(column))
    ]
    return [row if there else None for row, there in zip(rows, column.is_valid().to_pylist(), strict=True)]


def _from_dictionary(column: Any, known: Sequence[Any]) -> list[Any]:
    return [None if place is None else known[place] for place in column.indices.to_pylist()]


def _from_runs(column: Any, known: Sequence[Any]) -> list[Any]:
    ends = column.run_ends.to_pylist()
    return [known[bisect_right(ends, place)] for place in range(column.offset, column.offset + len(column))]


def _leaf_bits(column: Any) -> list[Any]:
    kind = column.type
    if pa.types.is_floating(kind):
        return [*column.view({2: pa.int16(), 4: pa.int32(), 8: pa.int64()}[kind.byte_width]).to_pylist()]
    if pa.types.is_date(kind):
        numbers = column.view(pa.int32() if kind == pa.date32() else pa.int64()).to_pylist()
        return [day if day is None or kind == pa.date32() else day / 86_400_000 for day in numbers]
    if pa.types.is_timestamp(kind) or pa.types.is_time(kind) or pa.types.is_duration(kind):
        numbers = column.view(pa.int32() if pa.types.is_time32(kind) else pa.int64()).to_pylist()
        return [number and number * UNITS[kind.unit] for number in numbers]
    return [*column.to_pylist()]


def values(column: Any) -> list[Any]:  # noqa: PLR0911 - a kind each
    """The values of an array, whatever type holds them: numbers, and moments in nanoseconds, as exact fractions."""
    kind = column.type
    if isinstance(kind, pa.BaseExtensionType):
        return values(column.storage)
    if pa.types.is_dictionary(kind):
        return _from_dictionary(column, values(column.dictionary))
    if pa.types.is_run_end_encoded(kind):
        return _from_runs(column, values(column.values))
    if pa.types.is_struct(kind):
        return _from_fields(column, [values(part) for part in column.flatten()])
    if pa.types.is_nested(kind):
        return [values(row.values) if row.is_valid else None for row in column]
    if pa.types.is_date(kind):
        return [day and Fraction(day) * 86_400 * 10**9 for day in bits(column)]
    return [_exact(value) for value in (column.to_pylist() if pa.types.is_floating(kind) else bits(column))]


def _exact(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return value
    if isinstance(value, float) and not (math.isfinite(value) and value):
        return str(value) if value or math.copysign(1, value) < 0 else 0  # -0.0 is another number than 0
    return Fraction(value)
