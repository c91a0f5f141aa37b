"""Arrays as record batches: each array a column, its first axis the rows, a few of them at a time."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nla_data.errors import UsageError

_FLOATS: Final = "fV"
"""Kinds of numpy's dtypes that one vector has; `V` is what it makes of a saved ml_dtypes.bfloat16."""


@dataclass(frozen=True)
class Array:
    """One array of a file; `read(start, count)` gives its rows from one on, `count` at a time."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    read: Callable[[int, int], Iterator[NDArray[Any]]]
    is_bits: bool = False
    """Whether its uint16 are the bits of bfloat16."""

    def as_row(self) -> "Array":
        """One vector [d] as [1, d]."""

        def read(start: int, _count: int) -> Iterator[NDArray[Any]]:
            if start == 0:
                yield np.concatenate(list(self.read(0, self.shape[0])) or [np.empty(0, self.dtype)])[None]

        return Array(self.dtype, (1, *self.shape), read, self.is_bits)

    @property
    def is_one_vector(self) -> bool:
        """Whether it is [d], of what vectors are made of."""
        return len(self.shape) == 1 and (self.dtype.kind in _FLOATS or self.is_bits)


@dataclass(frozen=True)
class Arrays:
    """The arrays of a file that have a row for each vector, and why the others are left out."""

    columns: dict[str, Array]
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return next(iter(self.columns.values())).shape[0]

    @property
    def schema(self) -> pa.Schema:
        """The columns that the arrays become."""
        empty = {name: to_arrow(np.empty((0, *a.shape[1:]), a.dtype)) for name, a in self.columns.items()}
        return pa.schema([(name, column.type) for name, column in empty.items()])

    def row_bytes(self, names: Sequence[str]) -> int:
        """Bytes of one row of some arrays."""
        chosen = (self.columns[name] for name in names)
        return sum(array.dtype.itemsize * math.prod(array.shape[1:]) for array in chosen)

    def batches(self, start: int, count: int, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """The rows of some arrays from one on, `count` at a time."""
        streams = [self.columns[name].read(start, count) for name in names]
        for chunks in zip(*streams, strict=True):
            yield pa.record_batch([to_arrow(chunk) for chunk in chunks], names=list(names))


def to_arrow(array: NDArray[Any]) -> pa.Array:
    """An array [N, ...] as a column: of lists of one length, and of lists of them, for each axis after the first.

    Raises:
        ArrowException, ValueError: Arrow has no such type.
    """
    if array.dtype.kind == "V" and array.dtype.itemsize == 2:
        array = array.view(np.uint16)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    column = pa.array(np.ascontiguousarray(array).reshape(-1))
    for size in reversed(array.shape[1:]):
        # Said with the type, or an array without elements would lose its rows.
        column = pa.FixedSizeListArray.from_arrays(column, type=pa.list_(column.type, size))
    return column


def of_file(found: dict[str, Array | str], column: str, path: str) -> Arrays:
    """Those arrays that have as many rows as the vectors; what is no array is the reason why it cannot be read.

    Raises:
        UsageError: the vectors are not there, or cannot be read.
    """
    if column not in found:
        names = ", ".join(found) or "nothing that can be read"
        raise UsageError(f"{path}: has no {column!r}; it has {names}: choose one with --column")
    vectors = _checked(found[column])
    if isinstance(vectors, str):
        raise UsageError(f"{path}: {column!r} {vectors}")
    if not vectors.shape:
        raise UsageError(f"{path}: {column!r} holds a single number, not vectors [N, d]")
    vectors = vectors.as_row() if vectors.is_one_vector else vectors
    kept, left_out = dict[str, Array](), dict[str, str]()
    for name, given in found.items():
        array = vectors if name == column else _checked(given)
        if isinstance(array, str):
            left_out[name] = array
        elif array.shape[:1] != vectors.shape[:1]:
            left_out[name] = "has not one row for each vector"
        else:
            kept[name] = array
    return Arrays(kept, left_out)


def _checked(given: Array | str) -> Array | str:
    """An array, or why it cannot be a column."""
    if isinstance(given, str):
        return given
    if 0 in given.shape[1:]:
        return "has rows without elements"
    try:
        to_arrow(np.empty((0, *given.shape[1:]), given.dtype))
    except (pa.ArrowException, ValueError, TypeError):
        return f"holds {given.dtype}, which Arrow has not"
    return given
