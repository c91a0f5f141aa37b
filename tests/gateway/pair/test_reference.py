"""How far an engine may be from transformers: rounding passes, anything else does not."""

import numpy as np
import pytest

from nla_client.wire import VectorDType
from nla_gateway.pair.reference import LOGPROB, logprob_mismatch, vector_mismatch
from nla_gateway.roles import Role
from nla_gateway.settings import Expected, PairSettings, Settings, read_settings, write_settings
from tests.gateway.process import NOBODY

WANTED = np.random.default_rng(5).standard_normal(4096).astype(np.float32)
NOISE = np.random.default_rng(6).standard_normal(4096).astype(np.float32)
DTYPES: tuple[VectorDType, ...] = ("float32", "bfloat16")


@pytest.mark.parametrize(("dtype", "rounding", "wrong"), [("float32", 1e-3, 1e-2), ("bfloat16", 0.05, 0.2)])
def test_direction(dtype: VectorDType, rounding: float, wrong: float) -> None:
    assert vector_mismatch(WANTED + rounding * NOISE, WANTED, dtype) is None
    problem = vector_mismatch(WANTED + wrong * NOISE, WANTED, dtype)
    assert problem is not None
    assert "another vector than transformers does of the same text (1 - cosine is " in problem


@pytest.mark.parametrize(("dtype", "rounding", "wrong"), [("float32", 1.0005, 1.01), ("bfloat16", 0.97, 0.9)])
def test_length(dtype: VectorDType, rounding: float, wrong: float) -> None:
    """A final norm left in place is seen by the length alone."""
    assert vector_mismatch(rounding * WANTED, WANTED, dtype) is None
    problem = vector_mismatch(wrong * WANTED, WANTED, dtype)
    assert problem is not None
    assert f"its length is {wrong - 1:+.1%}" in problem


@pytest.mark.parametrize("dtype", DTYPES)
def test_log_probabilities(dtype: VectorDType) -> None:
    assert logprob_mismatch(0.9 * LOGPROB[dtype], dtype) is None
    assert "other tokens likely" in str(logprob_mismatch(1.1 * LOGPROB[dtype], dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_no_number_never_passes(dtype: VectorDType) -> None:
    with np.errstate(invalid="ignore"):
        assert vector_mismatch(np.full_like(WANTED, np.nan), WANTED, dtype) is not None
    assert logprob_mismatch(float("nan"), dtype) is not None


def test_gateways_are_told_it_whole() -> None:
    expected = Expected(ids=(1, 2), vector=tuple(WANTED.tolist()), logprobs=({7: -0.5, 11: -2.25}, {3: -1.0}))
    engines = {Role.AR: NOBODY.model_copy(update={"expected": expected})}
    settings = Settings(pairs=(PairSettings(name="nobody", engines=engines),))
    with write_settings(settings) as told:
        (engine,) = read_settings(told.fileno()).pairs[0].engines.values()
    assert engine.expected == expected
    np.testing.assert_array_equal(np.array(engine.expected.vector, dtype=np.float32), WANTED)
