"""What the intervals and the fve are worth: they are compared with the truth, which made-up data have."""

from typing import Any

import numpy as np
import pytest

from nla_data.report.deviations import deviations
from nla_data.report.grouping import Grouping
from nla_data.report.rows import Rows
from nla_data.report.statistics import MIN_ROWS, Figure, Figures, Resampler, figures, share

TIMES = 400
D = 24
KINDS: dict[str, Any] = {
    "normal": (lambda random, count: random.normal(3, 1, count), 3.0, 0.91),
    "mse of cosines": (lambda random, count: 2 * (1 - random.beta(16, 4, count)), 0.4, 0.91),
    "skewed": (lambda random, count: random.exponential(1, count), 1.0, 0.87),
}


def holds(figure: Figure | None, truth: float) -> bool:
    assert figure is not None
    assert figure.low is not None
    assert figure.high is not None
    assert figure.low < figure.value < figure.high
    return figure.low <= truth <= figure.high


@pytest.mark.parametrize("count", [MIN_ROWS, 8, 12, 20, 50, 200])
@pytest.mark.parametrize("kind", KINDS)
def test_intervals_hold_the_truth_as_often_as_they_say(kind: str, count: int) -> None:
    draw, truth, least = KINDS[kind]
    random, resampler, ones = np.random.default_rng(1000 + count), Resampler(count), np.ones(count)
    share = np.mean([holds(resampler.ratio(draw(random, count), ones), truth) for _ in range(TIMES)])
    assert share >= least, f"{share:.1%} of the intervals hold the truth"


@pytest.mark.parametrize("count", range(MIN_ROWS))
def test_too_few_rows_have_no_interval(count: int) -> None:
    figure = Resampler(count).ratio(np.arange(1.0, count + 1), np.ones(count))
    assert (figure is None) == (count == 0)
    assert figure is None or (figure.low, figure.high) == (None, None)


def test_rows_that_are_alike() -> None:
    alike = Resampler(50).ratio(np.full(50, 0.5), np.ones(50))
    assert alike == Figure(0.5, 0.5, 0.5)
    nearly = Resampler(MIN_ROWS).ratio(np.array([1.0] * (MIN_ROWS - 1) + [2.0]), np.ones(MIN_ROWS))
    assert nearly is not None
    assert nearly.low is None


def told(random: Any, count: int, cosine: float) -> Figures:
    """Of vectors around a mean of their own, each with a reconstruction of about that cosine."""
    vectors = random.standard_normal((count, D)) + 1.5
    cosines = np.clip(cosine + 0.05 * random.standard_normal(count), -1, 1)
    rows = Rows(
        count=count, failed=None, incomplete=0, place=np.arange(count), input_row=np.arange(count),  # type: ignore[arg-type]
        mse=2 * (1 - cosines), cosine=cosines, norm=np.linalg.norm(vectors, axis=1),
        mse_mean=np.zeros(count), mse_std=np.zeros(count), groupings=[],
    )  # fmt: skip
    whole = Grouping.whole(count)
    (found,) = deviations(lambda: iter([(slice(0, count), vectors)]), [whole])
    return figures(rows, whole.members(0), 0.9, found)


@pytest.fixture(scope="module")
def truth() -> tuple[float, float]:
    many = told(np.random.default_rng(1), 200_000, 0.8)
    assert many.fve_data is not None
    assert many.fve_raw is not None
    return many.fve_data.value, many.fve_raw.value


@pytest.mark.parametrize("count", [MIN_ROWS, 10, 40])
def test_fve_of_few_rows_is_that_of_many(truth: tuple[float, float], count: int) -> None:
    """By the mean of n vectors themselves the variance would come out low by (n - 1) / n."""
    random = np.random.default_rng(count)
    some = [told(random, count, 0.8) for _ in range(TIMES)]
    for one, name in zip(truth, ("fve_data", "fve_raw"), strict=True):
        unexplained = np.array([1 - getattr(it, name).value for it in some])
        slack = 4 * unexplained.std() / np.sqrt(TIMES)
        assert abs(unexplained.mean() / (1 - one) - 1) < 0.02 + slack / (1 - one)
        share = np.mean([holds(getattr(it, name), one) for it in some])
        assert share >= 0.9, f"{share:.1%} of the intervals of {name} hold the truth"


@pytest.mark.parametrize(
    ("hits", "count", "low", "high"), [(40, 40, 0.9124, 1.0), (0, 40, 0.0, 0.0876), (20, 40, 0.3520, 0.6480)]
)
def test_intervals_of_shares_are_wilsons(hits: int, count: int, low: float, high: float) -> None:
    found = share(np.array([1.0] * hits + [0.0] * (count - hits)))
    assert found is not None
    assert (found.value, found.low, found.high) == pytest.approx((hits / count, low, high), abs=1e-4)
    assert share(np.empty(0)) is None


@pytest.mark.parametrize("truth", [0.025, 0.5, 0.97])
def test_intervals_of_shares_hold_the_truth(truth: float) -> None:
    random = np.random.default_rng(0)
    assert np.mean([holds_share(random.random(1000) < truth, truth) for _ in range(TIMES)]) >= 0.92


def holds_share(hits: Any, truth: float) -> bool:
    found = share(hits.astype(float))
    return found is not None and found.low is not None and found.high is not None and found.low <= truth <= found.high
