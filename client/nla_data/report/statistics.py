"""Figures of some rows, each with a bootstrap interval. All are ratios of sums over rows."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from nla_data.report.deviations import Deviations
from nla_data.report.rows import Rows

RESAMPLES: Final = 1000
CHUNKS: Final = 1000
SEED: Final = 0
_PERCENTILES: Final = (2.5, 97.5)

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Figure:
    """A value, with the interval that holds it in 95 of 100 resamples; None for one row alone."""

    value: float
    low: float | None = None
    high: float | None = None

    def mapped_from_one(self) -> "Figure":
        """One minus it."""
        if self.low is None or self.high is None:
            return Figure(1 - self.value)
        return Figure(1 - self.value, 1 - self.high, 1 - self.low)


@dataclass(frozen=True)
class Figures:
    """Of some rows; None where it cannot be told.

    Attributes:
        rows: How many.
        mse: Mean.
        cosine: Mean.
        fve_served: 1 - mean(mse) / the served baseline.
        fve_data: 1 - mean(mse) / mean squared distance of the scaled vectors from their own mean, by element.
        fve_raw: 1 - squared error at the true norm / squared distance from the mean, summed over rows.
    """

    rows: int
    mse: Figure | None
    cosine: Figure | None
    fve_served: Figure | None
    fve_data: Figure | None
    fve_raw: Figure | None


class Resampler:
    """Draws rows with replacement, the same draws for all ratios of the same rows.

    Rows are dealt at random into at most a thousand chunks, and chunks are drawn: for many rows that gives the interval
    of drawing rows, at no cost. The means that distances are from stay as they are: to first order their own
    scatter does not matter, since a mean makes the sum of squared distances smallest.
    """

    def __init__(self, rows: int) -> None:
        random = np.random.default_rng(SEED)
        count = min(rows, CHUNKS)
        self._order = random.permutation(rows)
        self._starts = np.arange(count) * rows // max(count, 1)
        self._weights = random.multinomial(count, np.full(count, 1 / count), RESAMPLES) if count > 1 else None

    def ratio(self, above: Floats, below: Floats) -> Figure | None:
        """Sum over sum; None where the lower one is nothing."""
        total = below.sum()
        if not total > 0:
            return None
        value = float(above.sum() / total)
        if self._weights is None:
            return Figure(value)
        with np.errstate(divide="ignore", invalid="ignore"):
            drawn = (self._weights @ self._chunks(above)) / (self._weights @ self._chunks(below))
        if not np.isfinite(drawn).all():
            return Figure(value)
        low, high = np.percentile(drawn, _PERCENTILES)
        return Figure(value, float(low), float(high))

    def _chunks(self, values: Floats) -> Floats:
        return np.asarray(np.add.reduceat(values[self._order], self._starts), np.float64)


def figures(
    rows: Rows, members: NDArray[np.int64], baseline: float | None, distances: Deviations | None = None
) -> Figures:
    """The figures of some of the rows."""
    count = len(members)
    if not count:
        return Figures(0, None, None, None, None, None)
    draw, ones = Resampler(count), np.ones(count)
    mse, cosine = rows.mse[members], rows.cosine[members]
    served = draw.ratio(mse, np.full(count, baseline)) if baseline else None
    data = raw = None
    if distances is not None:
        data = draw.ratio(mse, distances.unit[members])
        raw = draw.ratio(2 * np.square(rows.norm[members]) * (1 - cosine), distances.raw[members])
    return Figures(count, draw.ratio(mse, ones), draw.ratio(cosine, ones), *map(_fve, (served, data, raw)))


def _fve(unexplained: Figure | None) -> Figure | None:
    return unexplained.mapped_from_one() if unexplained else None
