"""The second run minus the first, row by row: figures with their intervals, and who won. Pure."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from nla_data.report.deviations import Deviations
from nla_data.report.rows import Floats, Rows
from nla_data.report.statistics import Figure, Figures, Resampler, share

TIE: Final = 1e-6
"""Errors that differ by no more are equal: about what the order of a batch changes."""

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Paired:
    """The scores of both runs, row by row [P], and what they are measured against.

    Attributes:
        first: Scores of the first run.
        second: Of the same rows in the second.
        baselines: Each run's served baseline.
        distances: Of the vectors from the mean of their group; None where they cannot be read again.
    """

    first: Rows
    second: Rows
    baselines: tuple[float | None, float | None]
    distances: Deviations | None

    @property
    def mse(self) -> Floats:
        """Second minus first [P]: below 0 where the second is nearer."""
        return self.second.mse - self.first.mse


@dataclass(frozen=True)
class Shares:
    """Of the rows: where the second run's mse is lower by more than TIE, higher, or neither."""

    won: Figure | None
    lost: Figure | None
    tied: Figure | None


def difference(paired: Paired, members: Indices) -> Figures:
    """Second minus first, of some rows; fve rises where mse falls.

    All are means, or ratios of sums, of differences row by row: their intervals are those of pairs, which are narrower
    than those of two runs apart, since what makes a row hard is hard for both.
    """
    count = len(members)
    if not count:
        return Figures(0, None, None, None, None, None)
    draw, ones = Resampler(count), np.ones(count)
    mse = paired.mse[members]
    cosine = (paired.second.cosine - paired.first.cosine)[members]
    served = data = raw = None
    first, second = paired.baselines
    if first and second:
        served = draw.ratio((paired.first.mse / first - paired.second.mse / second)[members], ones)
    if paired.distances is not None:
        data = draw.ratio(-mse, paired.distances.unit[members])
        raw = draw.ratio(2 * np.square(paired.first.norm[members]) * cosine, paired.distances.raw[members])
    return Figures(count, draw.ratio(mse, ones), draw.ratio(cosine, ones), served, data, raw)


def shares(paired: Paired, members: Indices) -> Shares:
    """Who won, of some rows."""
    mse = paired.mse[members]
    kinds = (mse < -TIE, mse > TIE, np.abs(mse) <= TIE)
    return Shares(*(share(kind.astype(np.float64)) for kind in kinds))


def farthest(paired: Paired, count: int) -> tuple[Indices, Indices]:
    """The rows that the second run won most and lost most, at most `count` of each."""
    mse = paired.mse
    order = np.argsort(mse, kind="stable")
    won, lost = order[:count], order[::-1][:count]
    return won[mse[won] < -TIE], lost[mse[lost] > TIE]
