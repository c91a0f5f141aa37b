"""Vectors on their way into the engine: rescaled, and in the form that its plugin reads."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nla_client.wire import VectorDType, encode_vector

Injection = dict[str, Any]
"""The engine request's `positional_embed_overrides`, as its plugin reads it."""


def rescale(vector: NDArray[np.float32], injection_scale: float | None) -> NDArray[np.float32]:
    """v * injection_scale / ||v||, all in float32; None leaves v as it is.

    Divided by the largest element first: the squares of a large vector would overflow float32.
    """
    if injection_scale is None:
        return vector
    bounded = vector / np.abs(vector).max()
    rescaled: NDArray[np.float32] = bounded * np.float32(injection_scale / np.linalg.norm(bounded))
    return rescaled


def injection(vector: NDArray[np.float32], position: int, dtype: VectorDType) -> Injection:
    """Encode one row, rounded once to the model's dtype.

    Raises:
        ValueError: an element overflows it.
    """
    return {"embeds": [encode_vector(vector, dtype)], "positions": [position], "dtype": dtype}
