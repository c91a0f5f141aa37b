"""Scores: how near a rebuilt vector came. Plain arithmetic in float64."""

import numpy as np
from numpy.typing import NDArray

from nla_client.wire import Score

Matrix = NDArray[np.float64]


def score(original: NDArray[np.float32], rebuilt: NDArray[np.float32], baseline: float | None) -> Score:
    """Score a rebuilt vector [d] against the original [d], both nonzero.

    mse = 2(1 - cosine), the mean squared difference with both scaled to sqrt(d_model); computed as the squared
    distance of the unit vectors, which loses nothing where cosine is near 1. fve = 1 - mse / baseline.
    """
    unit_original = _unit(original)
    unit_rebuilt = _unit(rebuilt)
    mse = float(np.square(unit_original - unit_rebuilt).sum())
    cosine = float(np.clip(unit_original @ unit_rebuilt, -1.0, 1.0))
    return Score(mse=mse, cosine=cosine, fve=None if baseline is None else 1.0 - mse / baseline)


def score_all(
    originals: list[NDArray[np.float32]], rebuilt: list[NDArray[np.float32]], baseline: float | None
) -> tuple[Matrix, Matrix, Matrix | None]:
    """Score each of n rebuilt vectors [d] against each of m originals [d], all nonzero.

    Returns mse, cosine and fve, [n, m] each, as `score` has them: here mse is 2(1 - cosine) itself, which near 0 is off
    by the rounding of cosine, some 1e-16.
    """
    units, directions = (np.stack([_unit(vector) for vector in vectors]) for vectors in (rebuilt, originals))
    cosine = np.clip(units @ directions.T, -1.0, 1.0)
    mse = 2.0 * (1.0 - cosine)
    return mse, cosine, None if baseline is None else 1.0 - mse / baseline


def _unit(vector: NDArray[np.float32]) -> NDArray[np.float64]:
    wide = vector.astype(np.float64)
    unit: NDArray[np.float64] = wide / np.linalg.norm(wide)
    return unit
