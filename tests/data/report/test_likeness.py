"""The controls' formulas, by numbers that are known, and against plain loops."""

import itertools
from collections import Counter

import numpy as np
import pytest

from nla_data.report import likeness

ALIKE = {
    ("harbour", "harbour"): 1.0,
    ("HARBOUR", "harbour"): 1.0,
    ("", ""): 1.0,
    ("a", "b"): 0.0,
    ("ab", "abc"): 2 / np.sqrt(4 * 5),  # "  a" and " ab" of four and of five runs
    ("港口", "港"): 1 / np.sqrt(4 * 3),
}


def at(*degrees: float) -> np.ndarray:
    """Units in the plane."""
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def cosine(*degrees: float) -> list[float]:
    return np.cos(np.radians(degrees)).tolist()


def test_units() -> None:
    np.testing.assert_allclose(likeness.unit(np.array([[3, 4], [0, -2], [0, 0]])), [[0.6, 0.8], [0, -1], [0, 0]])


def test_each_with_the_next_and_the_last_with_the_first() -> None:
    found = likeness.of_the_next(at(0, 0, 90), at(10, 30, 60))
    np.testing.assert_allclose(found, cosine(30, 60, 80))


def test_the_nearest_other_is_none_that_is_equal() -> None:
    found = likeness.to_nearest_other(at(0, 10, 90, 0))
    np.testing.assert_allclose(found, cosine(10, 10, 80, 10))
    assert np.isnan(likeness.to_nearest_other(at(5, 5, 5))).all()
    assert np.isnan(likeness.to_nearest_other(at(5))).all()


def test_the_nearest_other_of_many() -> None:
    units = likeness.unit(np.random.default_rng(0).standard_normal((600, 5)))
    cosines = units @ units.T
    np.fill_diagonal(cosines, -2)
    np.testing.assert_allclose(likeness.to_nearest_other(units), cosines.max(axis=1))


def test_retrieval() -> None:
    units = likeness.unit(np.random.default_rng(0).standard_normal((100, 8)))
    assert likeness.found_among(units, units).tolist() == [1.0] * 80  # two lots of 40, and 20 left out
    assert likeness.found_among(-units, units).sum() == 0
    assert likeness.found_among(units[:7], units[:7]).tolist() == [1.0] * 7


def test_retrieval_by_chance_is_one_in_forty() -> None:
    units = likeness.unit(np.random.default_rng(0).standard_normal((80, 8)))
    one_for_all = np.repeat(units[:1], 80, axis=0)
    assert likeness.found_among(one_for_all, units).mean() == 1 / 40
    assert likeness.found_among(units, np.repeat(units[:1], 80, axis=0)).tolist() == [1 / 40] * 80


def test_retrieval_with_vectors_that_are_twice_there() -> None:
    found = likeness.found_among(at(0, 80, 90, 90), at(0, 0, 90, 45), among=4)
    assert found.tolist() == [0.5, 0.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("degrees", "mean"), [((7, 7, 7), 1.0), ((0, 90), 0.0), ((0, 180), -1.0), ((0, 120, 240), -0.5)]
)
def test_agreement(degrees: tuple[float, ...], mean: float) -> None:
    assert likeness.agreement(at(*degrees)) == pytest.approx(mean)


def test_agreement_is_the_mean_over_pairs() -> None:
    units = likeness.unit(np.random.default_rng(0).standard_normal((6, 4)))
    pairs = [float(a @ b) for a, b in itertools.combinations(units, 2)]
    assert likeness.agreement(units) == pytest.approx(np.mean(pairs))


def runs(text: str) -> Counter[str]:
    padded = f"  {text}  "
    return Counter(padded[k : k + 3] for k in range(len(padded) - 2))


def alike(first: str, second: str) -> float:
    one, other = runs(first), runs(second)
    norms = np.sqrt(sum(it * it for it in one.values()) * sum(it * it for it in other.values()))
    return sum(one[run] * other[run] for run in one) / norms


@pytest.mark.parametrize("texts", ALIKE)
def test_agreement_of_texts(texts: tuple[str, str]) -> None:
    assert likeness.agreement_of_texts(texts) == pytest.approx(ALIKE[texts])


def test_agreement_of_texts_is_the_mean_over_pairs() -> None:
    texts = ["ships in a harbour", "a harbour, and ships", "aaaaaa", ""]
    pairs = [alike(*both) for both in itertools.combinations(texts, 2)]
    assert likeness.agreement_of_texts(texts) == pytest.approx(np.mean(pairs))
