"""Two runs, pair by pair: figures that are known, and intervals that hold the truth."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from nla_data.report.deviations import Deviations
from nla_data.report.differences import TIE, Paired, difference, farthest, shares
from nla_data.report.rows import Rows
from nla_data.report.statistics import Figure, figures

BASELINES = (0.8, 0.5)


def scores(cosine: Any, norm: Sequence[float] | None = None) -> Rows:
    """Scored rows of such cosines."""
    told = np.array(cosine, float)
    places, none = np.arange(len(told)), np.full(len(told), np.nan)
    norms = np.ones(len(told)) if norm is None else np.array(norm)
    return Rows(len(told), Counter(), 0, places, places, 2 * (1 - told), told, norms, none, none, [])


def of(first: Any, second: Any, norm: Sequence[float] | None = None, distances: Deviations | None = None) -> Paired:
    return Paired(scores(first, norm), scores(second, norm), BASELINES, distances)


def value(figure: Figure | None) -> float:
    assert figure is not None
    return figure.value


def test_differences_are_the_second_minus_the_first() -> None:
    distances = Deviations(unit=np.array([1.0, 0.5]), raw=np.array([10.0, 30.0]))
    found = difference(of([0.5, 0.75], [0.75, 0.5], [2.0, 4.0], distances), np.arange(2))
    assert (found.rows, value(found.mse), value(found.cosine)) == (2, 0.0, 0.0)
    # First mse 1 and 0.5 by 0.8, second 0.5 and 1 by 0.5.
    assert value(found.fve_served) == pytest.approx((1.5 / 0.8 - 1.5 / 0.5) / 2)
    assert value(found.fve_data) == 0.0
    assert value(found.fve_raw) == pytest.approx((2 * 4 * 0.25 - 2 * 16 * 0.25) / 40)


def test_they_are_the_differences_of_the_figures() -> None:
    random = np.random.default_rng(0)
    distances = Deviations(random.uniform(0.5, 1, 50), random.uniform(5, 9, 50))
    first, second, norm = (random.uniform(0.3, 0.9, 50) for _ in range(3))
    both = of(first, second, norm.tolist(), distances)
    members = np.arange(10, 40)
    found = difference(both, members)
    one, other = (
        figures(it, members, baseline, distances)
        for it, baseline in zip((both.first, both.second), BASELINES, strict=True)
    )
    for name in ("mse", "cosine", "fve_served", "fve_data", "fve_raw"):
        assert value(getattr(found, name)) == pytest.approx(value(getattr(other, name)) - value(getattr(one, name)))


def test_without_baselines_or_vectors_there_is_no_fve() -> None:
    both = Paired(scores([0.5] * 9), scores([0.6] * 9), (0.8, None), None)
    found = difference(both, np.arange(9))
    assert (found.fve_served, found.fve_data, found.fve_raw) == (None, None, None)
    assert difference(both, np.arange(0)).mse is None


def test_a_run_against_itself() -> None:
    one = np.random.default_rng(0).uniform(0, 1, 30)
    both = of(one, one)
    assert difference(both, np.arange(30)).mse == Figure(0.0, 0.0, 0.0)
    assert [value(it) for it in vars(shares(both, np.arange(30))).values()] == [0.0, 0.0, 1.0]
    assert [len(it) for it in farthest(both, 5)] == [0, 0]


def test_pairs_are_resampled_together() -> None:
    """What makes a row hard for both runs does not widen the interval of their difference."""
    random, holds = np.random.default_rng(0), []
    for _ in range(200):
        hard = random.uniform(0.2, 0.9, 60)
        both = of(hard, hard + 0.05 + 0.01 * random.standard_normal(60))
        found = difference(both, np.arange(60)).cosine
        assert found is not None
        assert found.low is not None
        assert found.high is not None
        assert found.high - found.low < 0.01
        holds.append(found.low <= 0.05 <= found.high)
    assert np.mean(holds) >= 0.91


def test_who_won() -> None:
    first = scores([0.5] * 10)
    second = scores([0.6] * 5 + [0.4] * 3 + [0.5 + TIE / 3, 0.5])
    told = shares(Paired(first, second, (None, None), None), np.arange(10))
    assert [value(it) for it in (told.won, told.lost, told.tied)] == [0.5, 0.3, 0.2]


def test_the_rows_that_won_and_lost_most() -> None:
    won, lost = farthest(of([0.5] * 6, [0.9, 0.6, 0.5, 0.1, 0.4, 0.7]), 2)
    assert (won.tolist(), lost.tolist()) == ([0, 5], [3, 4])
