"""Tables of any Arrow types with any bits in them, files made of them, and their bits, to be compared."""

import math
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc
import pyarrow.parquet as pq
from hypothesis import strategies as st

from nla_data.reading.conversion import decoded

UNITS: Final = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
LEAVES: Final = [
    pa.null(), pa.bool_(), pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(),
    pa.uint64(), pa.float16(), pa.float32(), pa.float64(), pa.string(), pa.large_string(), pa.string_view(),
    pa.binary(), pa.large_binary(), pa.binary_view(), pa.binary(3), pa.date32(), pa.date64(), pa.time32("s"),
    pa.time32("ms"), pa.time64("us"), pa.time64("ns"), pa.month_day_nano_interval(), pa.decimal32(9, 2),
    pa.decimal64(18, 3), pa.decimal128(38, 3), pa.decimal128(38, -2), pa.decimal256(76, 3),
    *(pa.timestamp(unit) for unit in UNITS), *(pa.timestamp(unit, "Europe/Paris") for unit in UNITS),
    *(pa.duration(unit) for unit in UNITS),
]  # fmt: skip
VALUES: Final = [pa.string(), pa.large_string(), pa.int64(), pa.float64(), pa.binary(), pa.date32()]
EXTENSIONS: Final = [pa.uuid(), pa.bool8(), pa.json_(), pa.fixed_shape_tensor(pa.int16(), [1, 2])]
TEXTS: Final = st.text(st.characters(codec="utf-8"), max_size=5)


def _nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    fields = st.lists(st.tuples(TEXTS, inner), max_size=3, unique_by=lambda field: field[0])
    lists = (pa.list_, pa.large_list, pa.list_view, pa.large_list_view)
    return st.one_of(
        *(inner.map(kind) for kind in lists),
        st.builds(pa.list_, inner, st.integers(1, 3)),
        st.builds(pa.map_, st.sampled_from([pa.string(), pa.int32()]), inner),
        fields.map(pa.struct),
    )


TYPES: Final = st.one_of(
    st.recursive(st.sampled_from(LEAVES), _nested, max_leaves=3),
    st.builds(pa.dictionary, st.sampled_from([pa.int8(), pa.uint16()]), st.sampled_from(VALUES), st.booleans()),
    st.builds(pa.run_end_encoded, st.just(pa.int32()), st.sampled_from(VALUES)),
    st.sampled_from(EXTENSIONS),
)


def _alike(*kinds: Any) -> list[Any]:
    return [pa.null(), *kinds, *(pa.dictionary(pa.int8(), kind) for kind in kinds if kind in VALUES)]


FAMILIES: Final = [
    _alike(*(kind for kind in LEAVES if pa.types.is_integer(kind) or pa.types.is_floating(kind)), pa.decimal128(38, 3)),
    _alike(pa.string(), pa.large_string(), pa.string_view(), pa.run_end_encoded(pa.int32(), pa.string())),
    _alike(pa.binary(), pa.large_binary(), pa.binary_view(), pa.binary(3), pa.string()),
    _alike(*(kind for kind in LEAVES if pa.types.is_timestamp(kind) or pa.types.is_date(kind))),
    _alike(*(kind for kind in LEAVES if pa.types.is_time(kind) or pa.types.is_duration(kind))),
    _alike(*(kind for kind in LEAVES if pa.types.is_decimal(kind)), pa.int64()),
]
"""Types that may be one column's in several files."""


@st.composite
def types_alike(draw: st.DrawFn, files: int) -> list[Any]:
    """The types of a column in so many files."""
    one = st.sampled_from(draw(st.sampled_from(FAMILIES)))
    wrap = draw(st.sampled_from([
        [lambda kind: kind],
        [pa.list_, pa.large_list, lambda kind: pa.list_(kind, 2)],
        [lambda kind: pa.struct([("a", kind)])],
    ]))  # fmt: skip
    kinds = [draw(st.sampled_from(wrap))(draw(one)) for _ in range(files)]
    return [draw(TYPES) if draw(st.integers(0, 9)) == 0 else kind for kind in kinds]


@st.composite
def arrays(draw: st.DrawFn, kind: Any, size: int) -> Any:
    """An array of a type, with values missing."""
    valid = draw(st.lists(st.booleans(), min_size=size, max_size=size))
    null = pa.array([not there for there in valid], pa.bool_())
    if isinstance(kind, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(kind, draw(arrays(kind.storage_type, size)))
    if pa.types.is_dictionary(kind):
        return draw(arrays(kind.value_type, size)).dictionary_encode().cast(kind)
    if pa.types.is_run_end_encoded(kind):
        ends = pa.array(np.arange(1, size + 1), kind.run_end_type)
        return pa.RunEndEncodedArray.from_arrays(ends, draw(arrays(kind.value_type, size)))
    if pa.types.is_struct(kind):
        parts = [draw(arrays(field.type, size)) for field in kind]
        return pa.StructArray.from_arrays(parts, fields=list(kind), mask=null) if parts else pa.nulls(size, kind)
    if pa.types.is_nested(kind):
        return _rows(kind, size, null, draw)
    return _leaves(kind, valid, draw)


def _rows(kind: Any, size: int, null: Any, draw: st.DrawFn) -> Any:
    """Lists and maps."""
    if pa.types.is_fixed_size_list(kind):
        values = draw(arrays(kind.value_type, size * kind.list_size))
        return pa.FixedSizeListArray.from_arrays(values, type=kind, mask=null)
    lengths = draw(st.lists(st.integers(0, 3), min_size=size, max_size=size))
    offsets = np.cumsum([0, *lengths])
    if pa.types.is_map(kind):
        keys = pa.array(np.arange(offsets[-1])).cast(kind.key_type)
        items = draw(arrays(kind.item_type, int(offsets[-1])))
        plain = pa.MapArray.from_arrays(pa.array(offsets, pa.int32()), keys, items)
        return pc.if_else(null, pa.nulls(size, plain.type), plain) if size else plain
    values = draw(arrays(kind.value_type, int(offsets[-1])))
    large = pa.types.is_large_list(kind) or pa.types.is_large_list_view(kind)
    width = pa.int64() if large else pa.int32()
    if pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind):
        view = pa.LargeListViewArray if large else pa.ListViewArray
        return view.from_arrays(pa.array(offsets[:-1], width), pa.array(lengths, width), values, type=kind, mask=null)
    made = pa.LargeListArray if large else pa.ListArray
    return made.from_arrays(pa.array(offsets, width), values, type=kind, mask=null)


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
        return pq.read_table(path)
    read = pa.ipc.open_stream if path.suffix == ".arrows" else pa.ipc.open_file
    return read(path.read_bytes()).read_all()


def bits(column: Any) -> list[Any]:
    """The values of an array, floats as their bits, moments in nanoseconds: alike in all types."""
    kind = column.type
    if isinstance(kind, pa.BaseExtensionType):
        return bits(column.storage)
    if pa.types.is_dictionary(kind):
        return bits(column.dictionary_decode())
    if pa.types.is_run_end_encoded(kind):
        return bits(pc.run_end_decode(column))
    if pa.types.is_struct(kind):
        parts = zip(*map(bits, column.flatten()), strict=True) if kind.num_fields else [()] * len(column)
        return [row if there else None for row, there in zip(parts, column.is_valid().to_pylist(), strict=True)]
    if pa.types.is_nested(kind):
        return [bits(row.values) if row.is_valid else None for row in column]
    return _leaf_bits(column)


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


def values(column: Any) -> list[Any]:
    """The values of an array, whatever type holds them: numbers, and moments in nanoseconds, as exact fractions."""
    kind = column.type
    simple = decoded(column)
    if simple is not column:
        return values(simple)
    if pa.types.is_struct(kind) and kind.num_fields:
        parts = zip(*map(values, column.flatten()), strict=True)
        return [row if there else None for row, there in zip(parts, column.is_valid().to_pylist(), strict=True)]
    if pa.types.is_nested(kind) and not pa.types.is_struct(kind) and not pa.types.is_map(kind):
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
