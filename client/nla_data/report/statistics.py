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
MIN_ROWS: Final = 6
"""Of fewer, all draws are so much alike that no interval of them holds the truth as often as it says."""
_KNOWN: Final = 0.9
"""Share of the draws that must have a standard error."""
_ROUNDING: Final = 1e-12
_PERCENTILES: Final = (2.5, 97.5)
_SQUARED: Final = 1.959964**2
"""Of the normal distribution: 95 of 100 lie within 1.96 of its middle."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Figure:
    """A value, with its 95 % interval; of means, None for fewer than MIN_ROWS rows, and for rows too much alike."""

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

    The interval is bootstrap-t: each draw's ratio is measured by its own standard error, and the distances that hold 95
    of 100 draws by that measure are laid around the value by its standard error. Percentiles of the drawn ratios alone
    would be too narrow for few rows, and lie wrong where a few rows weigh much.

    Rows are dealt at random into at most a thousand chunks, and chunks are drawn: for many rows that gives the interval
    of drawing rows, at no cost. The means that distances are from stay as they are: to first order their own
    scatter does not matter, since a mean makes the sum of squared distances smallest.
    """

    def __init__(self, rows: int) -> None:
        random = np.random.default_rng(SEED)
        self._count = count = min(rows, CHUNKS)
        self._order = random.permutation(rows)
        self._starts = np.arange(count) * rows // max(count, 1)
        enough = rows >= MIN_ROWS
        self._weights = random.multinomial(count, np.full(count, 1 / count), RESAMPLES) if enough else None

    def ratio(self, above: Floats, below: Floats) -> Figure | None:
        """Sum over sum; None where the lower one is nothing."""
        total = below.sum()
        if not total > 0:
            return None
        value = float(above.sum() / total)
        if self._weights is None:
            return Figure(value)
        upper, lower = self._chunks(above), self._chunks(below)
        rest = upper - value * lower  # what the ratio leaves of each; all sums of it, so that no digits are lost
        error = np.sqrt(self._count / (self._count - 1) * np.square(rest).sum()) / total
        distances = _standardised(self._weights, rest, lower)
        known = distances[np.isfinite(distances)]
        if len(known) < _KNOWN * RESAMPLES:
            return Figure(value, value, value) if not error > 0 else Figure(value)
        low, high = np.percentile(known, _PERCENTILES)
        return Figure(value, float(value - high * error), float(value - low * error))

    def _chunks(self, values: Floats) -> Floats:
        return np.asarray(np.add.reduceat(values[self._order], self._starts), np.float64)


def share(hits: Floats) -> Figure | None:
    """The mean of hits between 0 and 1, one a row, with Wilson's interval; None of no rows.

    It holds for shares near 0 and 1, too, and for few rows: there no draw of them would scatter as the truth may.
    """
    count = len(hits)
    if not count:
        return None
    value = float(hits.mean())
    middle = (value + _SQUARED / (2 * count)) / (1 + _SQUARED / count)
    away = np.sqrt(_SQUARED * (value * (1 - value) + _SQUARED / (4 * count)) / count) / (1 + _SQUARED / count)
    return Figure(value, float(max(middle - away, 0.0)), float(min(middle + away, 1.0)))


def _standardised(weights: NDArray[np.int64], rest: Floats, lower: Floats) -> Floats:
    """How far each draw's ratio is from the value, in its own standard errors; not finite where that has none."""
    sums = weights @ np.stack([rest, lower, rest * rest, rest * lower, lower * lower], axis=1)
    above, below, squares, products, lowers = sums.T
    count = weights[0].sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        away = above / below
        spread = squares - 2 * away * products + np.square(away) * lowers
        errors = np.sqrt(count / (count - 1) * np.maximum(spread, 0)) / below
        return np.asarray(np.where(spread > _ROUNDING * np.square(rest).sum(), away / errors, np.nan))


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
