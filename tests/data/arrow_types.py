"""Any Arrow type that pyarrow can build, one in another, and types that may be one column's in several files."""

from typing import Any, Final

import pyarrow as pa
import pyarrow.ipc
from hypothesis import strategies as st

UNITS: Final = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
LEAVES: Final = [
    pa.null(), pa.bool_(), pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(),
    pa.uint64(), pa.float16(), pa.float32(), pa.float64(), pa.string(), pa.large_string(), pa.string_view(),
    pa.binary(), pa.large_binary(), pa.binary_view(), pa.binary(3), pa.binary(0), pa.date32(), pa.date64(),
    pa.time32("s"), pa.time32("ms"), pa.time64("us"), pa.time64("ns"), pa.month_day_nano_interval(),
    pa.decimal32(9, 2), pa.decimal64(18, 3), pa.decimal128(38, 3), pa.decimal128(38, -2), pa.decimal256(76, 3),
    *(pa.timestamp(unit) for unit in UNITS), *(pa.timestamp(unit, "Europe/Paris") for unit in UNITS),
    *(pa.duration(unit) for unit in UNITS),
]  # fmt: skip
VALUES: Final = [pa.string(), pa.large_string(), pa.int64(), pa.float64(), pa.binary(), pa.date32()]
TEXTS: Final = st.text(st.characters(codec="utf-8"), max_size=5)
INDICES: Final = st.sampled_from([pa.int8(), pa.uint16(), pa.int32(), pa.uint64()])


class Marked(pa.ExtensionType):
    """An extension of a library's own, which nobody has registered."""

    def __init__(self, storage: pa.DataType) -> None:
        super().__init__(storage, "tests.marked")

    def __arrow_ext_serialize__(self) -> bytes:
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage: pa.DataType, serialized: bytes) -> "Marked":
        return cls(storage)


EXTENSIONS: Final = [
    pa.uuid(), pa.bool8(), pa.json_(), pa.json_(pa.large_string()), pa.json_(pa.string_view()),
    pa.fixed_shape_tensor(pa.int16(), [1, 2]), pa.fixed_shape_tensor(pa.string(), [2, 1], ["a", "b"], [1, 0]),
]  # fmt: skip


def _nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Types made of others."""
    values = st.builds(field, TEXTS, inner, st.booleans())
    items = inner | values.filter(lambda field: field.name)
    fields = st.lists(values, max_size=3)
    variants = st.lists(st.builds(pa.field, TEXTS, inner), min_size=1, max_size=2)
    lists = (pa.list_, pa.large_list, pa.list_view, pa.large_list_view)
    keys = st.sampled_from([pa.string(), pa.int32(), pa.dictionary(pa.int8(), pa.string()), pa.date64()])
    ends = st.sampled_from([pa.int16(), pa.int32(), pa.int64()])
    return st.one_of(
        *(items.map(kind) for kind in lists),
        st.builds(pa.list_, items, st.integers(0, 3)),
        st.builds(pa.map_, keys, inner, st.booleans()),
        fields.map(pa.struct),
        st.builds(pa.dictionary, INDICES, inner, st.booleans()),
        st.builds(pa.run_end_encoded, ends, inner),
        variants.map(pa.dense_union),
        variants.map(pa.sparse_union),
        st.builds(pa.opaque, inner.filter(_has_bitmap), st.just("kind"), st.just("vendor")),
        inner.filter(_has_bitmap).map(Marked),
    )


def field(name: str, kind: Any, nullable: bool = True) -> Any:
    """A field, which takes nulls where its type has nothing else."""
    return pa.field(name, kind, nullable or pa.types.is_null(kind))


def _has_bitmap(kind: Any) -> bool:
    """Whether an array of it says which values are missing; pyarrow takes no other into an extension."""
    while isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    return not (pa.types.is_null(kind) or pa.types.is_union(kind) or pa.types.is_run_end_encoded(kind))


def _can_be_read(kind: Any) -> bool:
    """Whether a file can have a column of it: pyarrow makes types that it cannot read again."""
    try:
        table = pa.table([pa.nulls(2, kind)], ["x"])
        file = pa.BufferOutputStream()
        with pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
        pa.ipc.open_file(file.getvalue()).read_all().validate(full=True)
    except (pa.ArrowException, OSError):
        return False
    return True


TYPES: Final = st.recursive(st.sampled_from([*LEAVES, *EXTENSIONS]), _nested, max_leaves=3).filter(_can_be_read)


def _with_dictionaries(*kinds: Any) -> list[Any]:
    return [pa.null(), *kinds, *(pa.dictionary(pa.int8(), kind) for kind in kinds if kind in VALUES)]


FAMILIES: Final = [
    _with_dictionaries(
        *(kind for kind in LEAVES if pa.types.is_integer(kind) or pa.types.is_floating(kind)), pa.decimal128(38, 3)
    ),
    _with_dictionaries(pa.string(), pa.large_string(), pa.string_view(), pa.run_end_encoded(pa.int32(), pa.string())),
    _with_dictionaries(pa.binary(), pa.large_binary(), pa.binary_view(), pa.binary(3), pa.string()),
    _with_dictionaries(*(kind for kind in LEAVES if pa.types.is_timestamp(kind) or pa.types.is_date(kind))),
    _with_dictionaries(*(kind for kind in LEAVES if pa.types.is_time(kind) or pa.types.is_duration(kind))),
    _with_dictionaries(*(kind for kind in LEAVES if pa.types.is_decimal(kind)), pa.int64()),
]
"""Types that may be one column's in several files."""
ENCODED: Final = [
    lambda kind: kind,
    lambda kind: pa.dictionary(pa.int8(), kind),
    lambda kind: pa.run_end_encoded(pa.int32(), kind),
    lambda kind: pa.opaque(kind, "kind", "vendor") if _has_bitmap(kind) else kind,
]
WRAPPED: Final = [
    [lambda kind: kind],
    [
        pa.list_, pa.large_list, pa.list_view, pa.large_list_view, lambda kind: pa.list_(kind, 2),
        lambda kind: pa.list_(field("x", kind, nullable=False)),
    ],
    [
        lambda kind: pa.struct([field("a", kind)]),
        lambda kind: pa.struct([field("a", kind, nullable=False), field("b", pa.int8())]),
        lambda kind: pa.struct([field("b", pa.int16()), field("a", kind)]),
    ],
    [lambda kind: pa.map_(pa.string(), kind), lambda kind: pa.map_(pa.string_view(), field("x", kind, nullable=False))],
]  # fmt: skip


@st.composite
def types_alike(draw: st.DrawFn, files: int) -> list[Any]:
    """The types of a column in so many files; None where one has no such column."""
    one = st.sampled_from(draw(st.sampled_from(FAMILIES)))
    wrap = st.sampled_from(draw(st.sampled_from(WRAPPED)))
    plain = st.just(ENCODED[0])
    inside, around = (st.sampled_from(ENCODED), st.sampled_from(ENCODED)) if draw(st.booleans()) else (plain, plain)
    made = st.tuples(around, wrap, inside, one).map(lambda it: it[0](it[1](it[2](it[3])))).filter(_can_be_read)
    kinds = [draw(made) for _ in range(files)]
    other = [draw(st.integers(0, 9)) for _ in range(files)]
    return [{0: None, 1: draw(TYPES)}.get(k, kind) for k, kind in zip(other, kinds, strict=True)]
