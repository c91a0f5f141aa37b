"""Vectors as base64 and back."""

import binascii
from typing import Final

import ml_dtypes
import numpy as np
import pybase64
from numpy.typing import NDArray

from nla_client.wire.base import VectorDType

ITEM_SIZE: Final[dict[VectorDType, int]] = {"bfloat16": 2, "float32": 4}
"""Bytes per vector element on the wire."""


def encode_vector(vector: NDArray[np.floating], dtype: VectorDType) -> str:
    """Encode one vector [d] (any float dtype) as base64, rounding to nearest even.

    Raises:
        ValueError: a finite element overflows `dtype`, or an element is NaN or infinite.
    """
    return pybase64.b64encode_as_string(_bytes_of(vector, dtype))


def encode_rows(rows: NDArray[np.floating], dtype: VectorDType) -> list[str]:
    """Encode the vectors of rows [n, d] as `encode_vector` does each.

    Raises:
        ValueError: as `encode_vector`.
    """
    raw, size = _bytes_of(rows, dtype), rows.shape[1] * ITEM_SIZE[dtype]
    return [pybase64.b64encode_as_string(raw[start : start + size]) for start in range(0, len(raw), size)]


def _bytes_of(vectors: NDArray[np.floating], dtype: VectorDType) -> bytes:
    if not np.isfinite(vectors).all():
        raise ValueError("the vector has NaN or infinite elements")
    with np.errstate(over="ignore"):
        if dtype == "bfloat16":
            rounded = vectors.astype(ml_dtypes.bfloat16)
            raw = rounded.view(np.uint16).astype("<u2").tobytes()
        else:
            rounded = vectors.astype("<f4")
            raw = rounded.tobytes()
    if not np.isfinite(rounded).all():
        raise ValueError(f"the vector has elements too large for {dtype}")
    return raw


def decode_vector(data: str, dtype: VectorDType, d_model: int | None = None) -> NDArray[np.float32]:
    """Decode base64 into a float32 vector [d].

    Raises:
        ValueError: not standard padded base64, not `d_model` elements, NaN or infinite elements.
    """
    try:
        raw = pybase64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("not valid base64 (standard alphabet, padded)") from None
    size = ITEM_SIZE[dtype]
    if len(raw) % size or (d_model is not None and len(raw) != d_model * size):
        each = f"{dtype} needs {size} each"
        wanted = f"d_model = {d_model} elements need {d_model * size}" if d_model is not None else each
        raise ValueError(f"{len(raw)} bytes in {dtype} where {wanted}")
    vector: NDArray[np.float32]
    if dtype == "bfloat16":
        vector = np.frombuffer(raw, "<u2").astype(np.uint16).view(ml_dtypes.bfloat16).astype(np.float32)
    else:
        vector = np.frombuffer(raw, "<f4").astype(np.float32)
    if not np.isfinite(vector).all():
        raise ValueError("has NaN or infinite elements")
    return vector
