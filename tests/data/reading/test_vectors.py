"""Rows that cannot be sent keep their neighbours and their reason."""

from typing import Any

import ml_dtypes
import numpy as np
import pyarrow as pa
import pytest

from nla_data.errors import UsageError
from nla_data.reading import vectors

GOOD = [1.0, -2.0, 3.0]


@pytest.mark.parametrize(
    ("column", "reasons"),
    [
        (pa.array([GOOD, None, GOOD]), [None, "no vector", None]),
        (pa.array([GOOD, [1.0], []]), [None, "1 elements where d_model = 3", "0 elements"]),
        (pa.array([[0.0, 0.0, 0.0], GOOD]), ["a zero vector, which has no direction", None]),
        (pa.array([[1.0, np.nan, np.nan], GOOD]), ["2 elements are NaN", None]),
        (pa.array([[1.0, None, 2.0], GOOD]), ["1 elements are NaN", None]),
        (pa.array([[1e300, 1.0, 1.0], GOOD]), ["1 elements are infinite or too large for bfloat16", None]),
        (pa.array([[np.inf, 1, 1], GOOD], pa.list_(pa.float16())), ["float16 overflows above 65504", None]),
        (pa.array([b"123456", None, b"123"]), [None, "no vector", "3 bytes where d_model = 3 need 6 (bfloat16)"]),
        (pa.array([[1, 2, None]], pa.list_(pa.uint16())), ["1 elements are NaN"]),
        (pa.array([None, GOOD], pa.list_(pa.float32(), 3)), ["no vector", None]),
    ],
)
def test_reasons(column: Any, reasons: list[str | None]) -> None:
    checked = vectors.read(column, 3)
    for found, wanted in zip(checked.reasons, reasons, strict=True):
        assert (found is None) if wanted is None else (found is not None and wanted in found)
    assert checked.vectors.shape == (reasons.count(None), 3)
    assert checked.vectors.dtype == np.float32


def test_slices_of_columns() -> None:
    rows = np.arange(1, 31, dtype=np.float32).reshape(10, 3)
    bits = rows.astype(ml_dtypes.bfloat16).view(np.uint16)
    for flat in (rows.reshape(-1), bits.reshape(-1)):
        column = pa.FixedSizeListArray.from_arrays(pa.array(flat), 3)
        np.testing.assert_array_equal(vectors.read(column[4:7], 3).vectors, rows[4:7])


@pytest.mark.parametrize("column", [pa.array(["a"]), pa.array([1.0]), pa.array([["a"]]), pa.array([[True]])])
def test_columns_that_hold_no_vectors(column: Any) -> None:
    with pytest.raises(UsageError, match="column 'x' holds"):
        vectors.check_type(column.type, "x")
