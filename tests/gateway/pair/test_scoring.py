import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nla_gateway.pair.injection import rescale
from nla_gateway.pair.scoring import score, score_all


@given(st.integers(0, 2**32 - 1), st.floats(1e-3, 1e3))
def test_score_is_the_formula(seed: int, scale: float) -> None:
    a, b = np.random.default_rng(seed).standard_normal((2, 64)).astype(np.float32)
    values = score(a, b * np.float32(scale), 0.7)
    wide = [v.astype(np.float64) / np.linalg.norm(v.astype(np.float64)) * 8.0 for v in (a, b)]
    mse = float(np.mean((wide[0] - wide[1]) ** 2))
    assert values.mse == pytest.approx(mse, abs=1e-6)
    assert values.cosine == pytest.approx(1 - mse / 2, abs=1e-6)
    assert values.fve == pytest.approx(1 - mse / 0.7, abs=1e-5)


@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 4))
def test_all_at_once_are_as_pair_by_pair(seed: int, texts: int, vectors: int) -> None:
    made = list(np.random.default_rng(seed).standard_normal((texts + vectors, 64)).astype(np.float32))
    rebuilt, originals = made[:texts], [*made[texts:-1], made[0] * np.float32(3.0)]
    mse, cosine, fve = score_all(originals, rebuilt, 0.7)
    assert fve is not None
    assert mse.shape == cosine.shape == fve.shape == (texts, vectors)
    for i, j in np.ndindex(texts, vectors):
        one = score(originals[j], rebuilt[i], 0.7)
        assert (mse[i, j], cosine[i, j], fve[i, j]) == pytest.approx((one.mse, one.cosine, one.fve), abs=1e-12)


def test_no_baseline_no_fve() -> None:
    assert score(np.ones(4, np.float32), np.ones(4, np.float32), None).fve is None
    assert score_all([np.ones(4, np.float32)], [np.ones(4, np.float32)], None)[2] is None


def test_opposite_vectors_score_four() -> None:
    values = score(np.ones(4, np.float32), -np.ones(4, np.float32), None)
    assert (values.mse, values.cosine) == (pytest.approx(4.0), pytest.approx(-1.0))


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_rescale_gives_the_norm_at_any_size(size: float) -> None:
    vector = (np.random.default_rng(0).standard_normal(512) * size).astype(np.float32)
    assert np.linalg.norm(rescale(vector, 150.0)) == pytest.approx(150.0, rel=1e-6)


def test_rescale_null_leaves_the_vector() -> None:
    vector = np.arange(3, dtype=np.float32)
    assert rescale(vector, None) is vector
