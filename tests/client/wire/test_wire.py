import base64
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydantic import ValidationError

from nla_client import wire

BF16_MAX = float(ml_dtypes.finfo(ml_dtypes.bfloat16).max)
float32s = hnp.arrays(np.float32, st.integers(1, 40), elements=st.floats(-BF16_MAX, BF16_MAX, width=32))


@settings(deadline=None)  # a busy machine is no failure
@given(float32s)
def test_float32_round_trip_is_exact(vector: Any) -> None:
    assert np.array_equal(wire.decode_vector(wire.encode_vector(vector, "float32"), "float32"), vector)


@settings(deadline=None)  # a busy machine is no failure
@given(hnp.arrays(np.uint16, st.integers(1, 40), elements=st.integers(0, 0xFFFF)))
def test_bfloat16_representable_round_trip_is_exact(bits: Any) -> None:
    vector = (bits.astype(np.uint32) << 16).view(np.float32)
    if np.isfinite(vector).all():
        decoded = wire.decode_vector(wire.encode_vector(vector, "bfloat16"), "bfloat16", len(vector))
        assert np.array_equal(decoded.view(np.uint32), vector.view(np.uint32))
    else:
        with pytest.raises(ValueError, match="NaN or infinite"):
            wire.encode_vector(vector, "bfloat16")


@settings(deadline=None)  # a busy machine is no failure
@given(float32s)
def test_bfloat16_rounds_to_nearest_even(vector: Any) -> None:
    bits = vector.view(np.uint32).astype(np.uint64)
    nearest_even = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    sent = np.frombuffer(base64.b64decode(wire.encode_vector(vector, "bfloat16")), "<u2")
    assert np.array_equal(sent, nearest_even)


def test_base64_is_standard_padded_little_endian() -> None:
    assert wire.encode_vector(np.array([1.0, -2.0]), "float32") == base64.b64encode(b"\0\0\x80\x3f\0\0\0\xc0").decode()
    assert wire.encode_vector(np.array([1.0]), "bfloat16") == "gD8="


@pytest.mark.parametrize(
    "data", ["gD8", "gD8=\n", "g-8=", "gD8=gD8=", "gD9é", "gA=="], ids=["pad", "line", "url", "two", "ascii", "odd"]
)
def test_bad_base64_is_refused(data: Any) -> None:
    with pytest.raises(ValueError, match=r"base64|bytes"):
        wire.decode_vector(data, "bfloat16")


def test_wrong_length_names_what_was_wanted() -> None:
    with pytest.raises(ValueError, match=r"2 bytes in bfloat16 where d_model = 2 elements need 4"):
        wire.decode_vector("gD8=", "bfloat16", 2)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_non_finite_is_refused_both_ways(value: Any) -> None:
    with pytest.raises(ValueError, match="NaN or infinite"):
        wire.encode_vector(np.array([value]), "float32")
    raw = base64.b64encode(np.array([value], "<f4").tobytes()).decode()
    with pytest.raises(ValueError, match="NaN or infinite"):
        wire.decode_vector(raw, "float32")


def test_overflow_of_the_wire_dtype_is_refused() -> None:
    for vector, dtype in ((np.array([1e39]), "float32"), (np.array([3.4e38], np.float32), "bfloat16")):
        with pytest.raises(ValueError, match=f"too large for {dtype}"):
            wire.encode_vector(vector, dtype)


def test_requests_are_strict_and_responses_lenient_and_frozen() -> None:
    with pytest.raises(ValidationError):
        wire.ReconstructRequest.model_validate({"texts": "a", "extra": 1})
    score = wire.Score.model_validate({"mse": 1, "cosine": 0.5, "fve": None, "newer": 1})
    with pytest.raises(ValidationError):
        score.mse = 2.0
