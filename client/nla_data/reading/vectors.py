"""Arrow columns to float32 vectors [N, d], row by row with what is wrong with it. Pure.

A bad row never spoils its neighbours: it is kept, with its reason. bfloat16 has no Arrow type: it comes as its bits,
in lists of uint16 or as bytes.
"""

from dataclasses import dataclass
from typing import Any, Final

import ml_dtypes
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nla_data.errors import UsageError
from nla_data.reading.types import is_list

FLOAT16_ADVICE: Final = "float16 overflows above 65504: save activations as bfloat16 or float32"
_LARGEST: Final = 3.3895e38  # bfloat16's largest finite number, in float32
_BFLOAT16_NAN: Final = 0x7FC0
_NUMBERS: Final = {
    pa.float16(): np.dtype(np.float16),
    pa.float32(): np.dtype(np.float32),
    pa.float64(): np.dtype(np.float64),
    pa.int64(): np.dtype(np.int64),  # JSON without a decimal point
    pa.uint16(): np.dtype(ml_dtypes.bfloat16),
}


@dataclass(frozen=True)
class Checked:
    """The vectors of some rows.

    Attributes:
        vectors: float32 [G, d], of the good rows alone.
        reasons: For each row None, or why it is not among them.
    """

    vectors: NDArray[np.float32]
    reasons: list[str | None]


def check_type(kind: pa.DataType, name: str) -> None:
    """Refuse a column that cannot hold vectors.

    Raises:
        UsageError: naming the column and its type.
    """
    shape = getattr(kind, "shape", None)
    if shape is not None and len(shape) != 1:
        raise UsageError(f"column {name!r} holds tensors of shape {list(shape)}, not vectors [d]: reshape them")
    kind = _plain(kind)
    if not (is_list(kind) and kind.value_type in _NUMBERS) and not _is_bytes(kind):
        raise UsageError(
            f"column {name!r} holds {kind}, not vectors [d]: lists of float16, float32, float64 or uint16 (the bits of "
            "bfloat16), or bytes of bfloat16 or float32"
        )


def read(column: pa.Array, d_model: int) -> Checked:
    """The vectors of a column whose type was checked, [N] rows of `d_model` elements."""
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    rows, reasons = _bytes(column, d_model) if _is_bytes(column.type) else _lists(column, d_model)
    good = np.array([reason is None for reason in reasons], bool)
    half = is_list(column.type) and column.type.value_type == pa.float16()
    for k, reason in zip(np.flatnonzero(good), _judge(rows, half=half), strict=True):
        reasons[k] = reason
    return Checked(rows[[reasons[k] is None for k in np.flatnonzero(good)]], reasons)


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind))


def _lists(column: pa.Array, d_model: int) -> tuple[NDArray[np.float32], list[str | None]]:
    sizes = column.value_lengths().to_pylist()
    reasons = [_size_reason(size, d_model) for size in sizes]
    kept = column.filter(pa.array([reason is None for reason in reasons], pa.bool_()))
    values, kind = kept.flatten(), _NUMBERS[column.type.value_type]
    if kind == ml_dtypes.bfloat16:
        return _as_float32(values.fill_null(_BFLOAT16_NAN).to_numpy().view(kind), d_model), reasons
    # Elements that are missing come as NaN.
    return _as_float32(values.to_numpy(zero_copy_only=False), d_model), reasons


def _size_reason(size: int | None, d_model: int) -> str | None:
    if size is None:
        return "no vector"
    return None if size == d_model else f"{size} elements where d_model = {d_model} are needed"


def _bytes(column: pa.Array, d_model: int) -> tuple[NDArray[np.float32], list[str | None]]:
    rows, reasons = list[NDArray[np.float32]](), list[str | None]()
    for value in column.to_pylist():
        kinds: dict[int, Any] = {2 * d_model: ml_dtypes.bfloat16, 4 * d_model: np.float32}
        if value is not None and len(value) in kinds:
            rows.append(_as_float32(np.frombuffer(value, kinds[len(value)]), d_model)[0])
            reasons.append(None)
        else:
            wanted = f"d_model = {d_model} need {2 * d_model} (bfloat16) or {4 * d_model} (float32)"
            reasons.append("no vector" if value is None else f"{len(value)} bytes where {wanted}")
    return (np.stack(rows) if rows else np.empty((0, d_model), np.float32)), reasons


def _as_float32(numbers: NDArray[Any], d_model: int) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        rows: NDArray[np.float32] = numbers.astype(np.float32).reshape(-1, d_model)
    return rows


def _judge(rows: NDArray[np.float32], *, half: bool) -> list[str | None]:
    """For each vector None, or what is wrong with its elements."""
    with np.errstate(invalid="ignore"):
        largest = np.abs(rows).max(axis=1) if len(rows) else np.empty(0)  # NaN where one is
    return [_element_reason(row, float(most), half=half) for row, most in zip(rows, largest, strict=True)]


def _element_reason(row: NDArray[np.float32], most: float, *, half: bool) -> str | None:
    if 0 < most <= _LARGEST:
        return None
    if most == 0:
        return "a zero vector, which has no direction"
    if np.isnan(most):
        return f"{int(np.isnan(row).sum())} elements are NaN"
    infinite = f"{int((np.abs(row) > _LARGEST).sum())} elements are infinite or too large for bfloat16"
    return f"{infinite}; {FLOAT16_ADVICE}" if half else infinite
