"""How alike vectors or texts are: the formulas of the controls, on arrays. Pure."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

EQUAL: Final = 1e-9
"""Cosines that are so near to each other, or to 1, are the same: only rounding is between them."""
AMONG: Final = 40
_BLOCK: Final = 256
_GRAM: Final = 3

Floats = NDArray[np.float64]


def unit(vectors: NDArray[Any]) -> Floats:
    """Scaled to norm 1 [n, d]; a zero vector stays."""
    found = np.asarray(vectors, np.float64)
    norms = np.linalg.norm(found, axis=1, keepdims=True)
    return np.asarray(found / np.where(norms > 0, norms, 1.0))


def of_the_next(first: Floats, second: Floats) -> Floats:
    """The cosine of each row of `first` with the next row of `second`, and of the last with the first; [n] of units."""
    return np.asarray(np.einsum("nd,nd->n", first, np.roll(second, -1, axis=0)))


def to_nearest_other(units: Floats) -> Floats:
    """Each vector's cosine with the nearest of the others that are not equal to it [n]; NaN where there is none."""
    told = np.empty(len(units))
    for begin in range(0, len(units), _BLOCK):
        cosines = units[begin : begin + _BLOCK] @ units.T
        cosines[cosines > 1 - EQUAL] = -np.inf  # itself is among them
        told[begin : begin + _BLOCK] = cosines.max(axis=1, initial=-np.inf)
    return np.where(np.isfinite(told), told, np.nan)


def found_among(rebuilt: Floats, units: Floats, among: int = AMONG) -> Floats:
    """Whether each rebuilt vector is nearer to its own vector than to the others of its lot of `among` rows.

    Rows are dealt into lots as they come; those of a last, smaller one are left out.

    Returns:
        [n]: 1 where it is, 0 where it is not; 1/k where k are equally near, its own among them.
    """
    size = min(among, len(units))
    told = []
    for begin in range(0, len(units) - size + 1, max(size, 1)):
        lot = slice(begin, begin + size)
        cosines = rebuilt[lot] @ units[lot].T
        nearest = cosines >= cosines.max(axis=1, keepdims=True) - EQUAL
        told.append(np.diagonal(nearest) / nearest.sum(axis=1))
    return np.concatenate(told) if told else np.empty(0)


def agreement(units: Floats) -> float:
    """Mean cosine over all pairs of some units [k, d], k at least 2."""
    count = len(units)
    return float((np.square(units.sum(axis=0)).sum() - count) / (count * (count - 1)))


def agreement_of_texts(texts: Sequence[str]) -> float:
    """The same of texts, each as the counts of its runs of three characters: of any language, with no model."""
    total: defaultdict[str, float] = defaultdict(float)
    for text in texts:
        counts = _runs(text)
        norm = np.sqrt(sum(count * count for count in counts.values()))
        for run, count in counts.items():
            total[run] += count / norm
    count = len(texts)
    return float((sum(value * value for value in total.values()) - count) / (count * (count - 1)))


def _runs(text: str) -> Counter[str]:
    padded = f"  {text.casefold()}  "  # so that an empty text has some, too
    return Counter(padded[k : k + _GRAM] for k in range(len(padded) - _GRAM + 1))
