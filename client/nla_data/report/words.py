"""Values of any Arrow type as words. Nanoseconds and far dates, which Python lacks, too."""

import re
from typing import Any, Final

import pyarrow as pa

from nla_data.reading.conversion import decoded
from nla_data.reading.types import is_text

_NO_FRACTION: Final = re.compile(r"\.0+(?=$|[Z+-])")


def readable(column: pa.Array) -> pa.Array:
    """The same values in a type that Arrow's own functions know: views, dictionaries and extensions are not."""
    simple, kind = decoded(column), column.type
    if simple is not column:
        return readable(simple)
    if pa.types.is_string_view(kind):
        return column.cast(pa.large_string())
    if pa.types.is_binary_view(kind):
        return column.cast(pa.large_binary())
    return column.cast(pa.float32()) if pa.types.is_float16(kind) else column


def values(column: pa.Array) -> list[Any]:
    """As Python's own numbers where they are such, else as words; None where there is none."""
    kind = column.type
    if pa.types.is_duration(kind):
        return [None if told is None else f"{told} {kind.unit}" for told in column.cast(pa.string()).to_pylist()]
    if pa.types.is_temporal(kind):
        return [told and _NO_FRACTION.sub("", told) for told in column.cast(pa.string()).to_pylist()]
    if is_text(kind):  # which may hold any bytes
        told = column.cast(pa.large_binary()).to_pylist()
        return [None if text is None else text.decode("utf-8", "replace") for text in told]
    return list(column.to_pylist())
