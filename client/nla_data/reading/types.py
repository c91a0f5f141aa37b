"""Arrow types as outputs keep them: what a column becomes, what columns of several files become together. Pure.

An output is parquet, which everybody can read: views, dictionaries and runs become the values that they stand for, and
what parquet has not (seconds, date64) becomes what it has. No value changes: `conversion` sees to it.
"""

from collections.abc import Iterator
from functools import reduce
from typing import Final

import pyarrow as pa

_SIMPLER: Final = {
    pa.string_view(): pa.large_string(),
    pa.binary_view(): pa.large_binary(),
    pa.date64(): pa.date32(),
    pa.time32("s"): pa.time32("ms"),
}
_BITS: Final = {pa.float16(): 11, pa.float32(): 24, pa.float64(): 53}
"""Bits of the integers that a float holds exactly."""


class DifferentTypesError(ValueError):
    """Columns that cannot be one; its text says why."""


def plain(kind: pa.DataType) -> pa.DataType:
    """The type as which a column comes out."""
    if kind in _SIMPLER:
        return _SIMPLER[kind]
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return plain(kind.value_type)
    if isinstance(kind, pa.BaseExtensionType):
        return kind if plain(kind.storage_type) == kind.storage_type else plain(kind.storage_type)
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(field.name, plain(field.type)) for field in kind])
    if pa.types.is_map(kind):
        return pa.map_(plain(kind.key_type), plain(kind.item_type))
    return _plain_list(kind) if pa.types.is_nested(kind) else _in_milliseconds(kind)


def _in_milliseconds(kind: pa.DataType) -> pa.DataType:
    return pa.timestamp("ms", kind.tz) if pa.types.is_timestamp(kind) and kind.unit == "s" else kind


def _plain_list(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_list(kind) or pa.types.is_list_view(kind):
        return pa.list_(plain(kind.value_type))
    if pa.types.is_large_list(kind) or pa.types.is_large_list_view(kind):
        return pa.large_list(plain(kind.value_type))
    if pa.types.is_fixed_size_list(kind):
        # Parquet's lists of no length cannot be read again.
        return pa.list_(plain(kind.value_type), kind.list_size or -1)
    return kind


def no_rows(schema: pa.Schema) -> pa.Table:
    """A table without rows. pyarrow's own `empty_table` cannot make one of all types."""
    return pa.table([pa.nulls(0, field.type) for field in schema], schema=schema)


def places(kind: pa.StructType, target: pa.StructType) -> list[int]:
    """Where each field of a struct is in another: by its name or, where names stand for two, at the same place.

    Raises:
        DifferentTypesError: that cannot be told.
    """
    names, others = ([field.name for field in one] for one in (kind, target))
    if len(set(others)) == len(others):
        return [others.index(name) for name in names]
    if names != others:
        raise DifferentTypesError("a name in it stands for two fields")
    return list(range(len(names)))


def merge(kinds: list[pa.DataType]) -> pa.DataType:
    """The plain type that holds the values of all these.

    Raises:
        DifferentTypesError: there is none that holds them as they are.
    """
    return reduce(_merge_two, map(plain, kinds))


def _merge_two(first: pa.DataType, second: pa.DataType) -> pa.DataType:
    if first == second:
        return first
    one, other = (kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind for kind in (first, second))
    try:
        merged = pa.unify_schemas([pa.schema([("", kind)]) for kind in (one, other)], promote_options="permissive")
    except pa.ArrowException:
        raise DifferentTypesError(f"{first} and {second}") from None
    found = plain(merged.field(0).type)
    for kind in (one, other):
        for leaf, target in _pairs(kind, found):
            if not _keeps_its_kind(leaf, target):
                raise DifferentTypesError(f"{first} and {second}")
    return found


def _keeps_its_kind(leaf: pa.DataType, target: pa.DataType) -> bool:
    """Whether a value stays what it was: a text no bytes, a decimal no float."""
    if pa.types.is_decimal(leaf):
        return not pa.types.is_floating(target)
    return not (is_text(leaf) and _is_bytes(target))


def is_text(kind: pa.DataType) -> bool:
    """Whether a column of this type holds texts."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def is_list(kind: pa.DataType) -> bool:
    """Whether it holds lists, of one length or of several."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def is_safe(kind: pa.DataType, target: pa.DataType) -> bool:
    """Whether all values of a type are sure to stay as they are."""
    return kind == target or all(_is_safe_leaf(leaf, wanted) for leaf, wanted in _pairs(kind, target))


def _is_safe_leaf(kind: pa.DataType, target: pa.DataType) -> bool:
    if kind == target or pa.types.is_null(kind) or _is_text_or_bytes(kind):
        return True
    if pa.types.is_floating(kind):
        return bool(target in _BITS)
    if not pa.types.is_integer(kind):
        return False
    signed = pa.types.is_signed_integer(kind)
    bits = kind.bit_width - signed
    if target in _BITS:
        return bool(bits <= _BITS[target])
    target_signed = pa.types.is_signed_integer(target)
    return bool(pa.types.is_integer(target) and bits <= target.bit_width - target_signed and signed <= target_signed)


def _is_text_or_bytes(kind: pa.DataType) -> bool:
    tests = [is_text, _is_bytes, pa.types.is_fixed_size_binary, pa.types.is_string_view, pa.types.is_binary_view]
    return any(test(kind) for test in tests)


def _pairs(kind: pa.DataType, target: pa.DataType) -> Iterator[tuple[pa.DataType, pa.DataType]]:
    """The types at the leaves of a nested type, each with what it becomes."""
    if kind == target:
        yield kind, target
    elif pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        yield from _pairs(kind.value_type, target)
    elif isinstance(kind, pa.BaseExtensionType):
        yield from _pairs(kind.storage_type, target)
    elif isinstance(target, pa.BaseExtensionType):
        yield from _pairs(kind, target.storage_type)
    elif pa.types.is_struct(kind) and pa.types.is_struct(target):
        for field, place in zip(kind, places(kind, target), strict=True):
            yield from _pairs(field.type, target.field(place).type)
    elif pa.types.is_map(kind) and pa.types.is_map(target):
        yield from _pairs(kind.key_type, target.key_type)
        yield from _pairs(kind.item_type, target.item_type)
    elif pa.types.is_nested(kind) and pa.types.is_nested(target):
        yield from _pairs(kind.value_type, target.value_type)
    else:
        yield kind, target
