"""Arrow columns as another type, value by value, and which value would not be the same. Pure.

Lists are taken apart and put together here: pyarrow's own cast makes invalid ones of slices and of views.
"""

import operator
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nla_data.reading.types import is_safe, places, plain


def convert(column: Any, target: pa.DataType) -> Any:
    """A column as another type.

    Raises:
        ArrowException: a value does not fit, or pyarrow cannot do it.
    """
    kind = column.type
    if kind == target:
        return column
    if pa.types.is_null(kind):
        return pa.nulls(len(column), target)
    if isinstance(target, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(target, convert(column, target.storage_type))
    simple = decoded(column)
    if simple is not column:
        return convert(simple, target)
    if pa.types.is_nested(kind) and pa.types.is_nested(target):
        return _nested(column, target)
    return column.cast(target)


def changed(column: Any, target: pa.DataType) -> str | None:
    """What is wrong with the first value that would not stay as it is as another type, if one would not."""
    try:
        converted = convert(column, target)
    except pa.ArrowException as error:
        return str(error).splitlines()[0]
    for before, after in _leaves(column, converted):
        if not is_safe(before.type, after.type):
            same = _same(before, after.cast(before.type, safe=False))
            if not pc.all(same, min_count=0).as_py():
                place = pc.index(same, False).as_py()
                return f"{before[place : place + 1].cast(pa.string())[0]} would come out as another value"
    return None


def _same(column: Any, other: Any) -> Any:
    """Which values are equal; those that are missing are."""
    try:
        return pc.equal(column, other).fill_null(True)
    except pa.ArrowNotImplementedError:  # decimals with a negative scale
        return pa.array(map(operator.eq, column.to_pylist(), other.to_pylist()), pa.bool_())


def decoded(column: Any) -> Any:
    """The values that an extension, a dictionary or runs stand for; all else as it is."""
    if isinstance(column, pa.ExtensionArray):
        return column.storage
    if isinstance(column, pa.DictionaryArray):
        return _chosen(column.dictionary, column.indices)
    if isinstance(column, pa.RunEndEncodedArray):
        rows = np.arange(column.offset, column.offset + len(column))
        return _chosen(column.values, pa.array(np.searchsorted(column.run_ends.to_numpy(), rows, "right")))
    return column


def _chosen(values: Any, places: Any) -> Any:
    """Values by their places. pyarrow takes none of a view, wherever it is, nor decodes all kinds of runs."""
    return convert(values, plain(values.type)).take(places)


def _nested(column: Any, target: pa.DataType) -> Any:
    null = column.is_null()
    if pa.types.is_struct(target):
        own = dict(zip(places(column.type, target), column.flatten(), strict=True))
        parts = [convert(own.get(k, pa.nulls(len(column))), field.type) for k, field in enumerate(target)]
        return pa.StructArray.from_arrays(parts, fields=list(target), mask=null) if parts else column
    if pa.types.is_fixed_size_list(target):
        size = target.list_size
        values = column.values.slice(column.offset * size, len(column) * size)
        converted = convert(values, target.value_type)
        # Of lists of no length, pyarrow divides by it.
        there = pa.array(column.is_valid().to_numpy(zero_copy_only=False)).buffers()[1]
        return pa.Array.from_buffers(target, len(column), [there], children=[converted])
    lengths = _lengths(column)
    large = pa.types.is_large_list(target)
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]), pa.int64() if large else pa.int32())
    if pa.types.is_map(target):
        keys, items = _entries(column)
        keys, items = convert(keys, target.key_type), convert(items, target.item_type)
        return pa.MapArray.from_arrays(offsets, keys, items, type=target, mask=null)
    made = pa.LargeListArray if large else pa.ListArray
    return made.from_arrays(offsets, convert(column.flatten(), target.value_type), type=target, mask=null)


def _lengths(column: Any) -> NDArray[np.int64]:
    """How many values each list has; none where it is missing."""
    if isinstance(column, pa.MapArray):
        return np.where(column.is_valid().to_numpy(zero_copy_only=False), np.diff(column.offsets.to_numpy()), 0)
    found: NDArray[np.int64] = pc.list_value_length(column).fill_null(0).to_numpy(zero_copy_only=False)
    return found


def _entries(column: Any) -> tuple[Any, Any]:
    """All keys of maps, and all that stands under them; without those of missing maps."""
    offsets, valid = column.offsets.to_pylist(), column.is_valid().to_pylist()
    rows = [(begin, end - begin) for (begin, end), there in zip(pairwise(offsets), valid, strict=True) if there]
    if sum(size for _, size in rows) == offsets[-1] - offsets[0]:  # nothing lies between them
        rows = [(offsets[0], offsets[-1] - offsets[0])]
    keys, items = (
        pa.concat_arrays([part.slice(*row) for row in rows or [(0, 0)]]) for part in (column.keys, column.items)
    )
    return keys, items


def _leaves(column: Any, converted: Any) -> Iterator[tuple[Any, Any]]:
    """The values at the leaves of a column, each with what has become of them; without those that are null alone."""
    before, after = decoded(column), decoded(converted)
    if before is not column or after is not converted:
        yield from _leaves(before, after)
    elif pa.types.is_struct(before.type):
        parts = after.flatten()
        for part, place in zip(before.flatten(), places(before.type, after.type), strict=True):
            yield from _leaves(part, parts[place])
    elif pa.types.is_map(before.type):
        for pair in zip(_entries(before), _entries(after), strict=True):
            yield from _leaves(*pair)
    elif pa.types.is_nested(before.type):
        yield from _leaves(before.flatten(), after.flatten())
    elif not pa.types.is_null(before.type):
        yield before, after
