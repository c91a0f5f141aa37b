"""How far each vector is from the mean of its group: what fve is measured against. Two passes, sums alone in memory."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from nla_data.report.grouping import Grouping
from nla_data.report.originals import Pieces, Vectors

Floats = NDArray[np.float64]
_ROUNDING: Final = 1e-24
"""A squared distance that is so much smaller than the squared norm is none: the vectors are equal."""


@dataclass(frozen=True)
class Deviations:
    """Squared distances of the rows from their group's mean, [N], times n / (n - 1).

    For the mean is the group's own, and so nearer to its n rows than to others of their kind: with that factor the mean
    over the rows is the variance of their kind, however few there are.

    Attributes:
        unit: Of the vectors scaled to norm sqrt(d), by element.
        raw: Of the vectors as they are, summed over elements.
    """

    unit: Floats
    raw: Floats


def deviations(pieces: Pieces, groupings: Sequence[Grouping]) -> list[Deviations]:
    """Of all rows, for each grouping.

    Raises:
        UnavailableError: the vectors cannot be read again.
    """
    means = [_Means(grouping) for grouping in groupings]
    for taken, found in pieces():
        unit = _unit(found)
        for mean in means:
            mean.add(taken, unit, found)
    told = [Deviations(np.empty(len(it.codes)), np.empty(len(it.codes))) for it in groupings]
    for taken, found in pieces():
        unit = _unit(found)
        for mean, deviation in zip(means, told, strict=True):
            deviation.unit[taken], deviation.raw[taken] = mean.distances(taken, unit, found)
    return told


class _Means:
    """The mean of each group."""

    def __init__(self, grouping: Grouping) -> None:
        self._codes = grouping.codes
        self._counts = np.bincount(grouping.codes, minlength=len(grouping.labels))[:, None]
        self._factors = self._counts / np.maximum(self._counts - 1, 1)
        self._sums: tuple[Vectors, Vectors] | None = None

    def add(self, taken: slice, unit: Vectors, raw: Vectors) -> None:
        if self._sums is None:
            shape = (len(self._counts), raw.shape[1])
            self._sums = np.zeros(shape), np.zeros(shape)
        codes = self._codes[taken]
        for code in np.unique(codes):
            for total, values in zip(self._sums, (unit, raw), strict=True):
                total[code] += values[codes == code].sum(axis=0)

    def distances(self, taken: slice, unit: Vectors, raw: Vectors) -> tuple[Floats, Floats]:
        if self._sums is None:
            raise ValueError("means are of rows that were added before")
        told, codes = (np.empty(len(raw)), np.empty(len(raw))), self._codes[taken]
        for code in np.unique(codes):
            member = codes == code
            for out, total, values in zip(told, self._sums, (unit, raw), strict=True):
                out[member] = self._factors[code] * _distances(values[member], total[code] / self._counts[code])
        return told[0] / raw.shape[1], told[1]


def _distances(vectors: Vectors, mean: Vectors) -> Floats:
    squared = np.square(vectors - mean).sum(axis=1)
    return np.where(squared > _ROUNDING * np.square(vectors).sum(axis=1), squared, 0.0)


def _unit(vectors: Vectors) -> Vectors:
    """Scaled to norm sqrt(d)."""
    scale = np.sqrt(vectors.shape[1]) / np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors * scale)
