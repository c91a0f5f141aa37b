"""Vectors to try things with: directions, and what lies along them. All is float32 numpy, and nothing is sent.

    from nla_client import NLAClient, NLACritic, directions

    happy, sad = nla.extract(happy_texts), nla.extract(sad_texts)          # the last token of each
    mood = directions.difference_of_means([one.vectors[0] for one in happy], [one.vectors[0] for one in sad])
    print(nla.verbalize(directions.mix(base, mood, 0.5)))
    print(nla.verbalize(directions.mix(base, directions.random_like(mood, seed=0), 0.5)))   # what any direction does

A direction that was found is a claim, and `random_like` is the control that belongs to it.

Every function takes vectors as the clients do (numpy, torch, bfloat16, sequences) and raises InvalidVectorError for
elements that are NaN or infinite, for widths that differ, and where a direction would be needed of what is all zero.
"""

from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from nla_client.errors import InvalidArgumentError, InvalidVectorError
from nla_client.vectors import Matrix, Vector, VectorsLike, as_vectors
from nla_client.wire import VectorDType


class Reconstructs(Protocol):
    """What rebuilds vectors from texts, such as an NLACritic."""

    def reconstruct(self, text: list[str], *, dtype: VectorDType) -> Matrix:
        """Rebuild [N, d] from N texts, rounded to `dtype` on their way."""


def difference_of_means(a: VectorsLike, b: VectorsLike) -> Vector:
    """The direction from what `b` has in common to what `a` has: mean(a) - mean(b).

    As in Marks and Tegmark, "The Geometry of Truth" (2023, arXiv:2310.06824), who take it for true and false
    statements. Means are taken in float64.

    Args:
        a: Vectors [N, d], or one [d].
        b: Vectors [M, d], or one [d].

    Returns:
        float32 [d].

    Raises:
        InvalidVectorError: no vectors, or means that are equal: there is no direction between them.
    """
    first, second = _mean(a, "a"), _mean(b, "b")
    _check_widths(first, second)
    return _direction(first - second, "the means of a and b are equal")


def unit(v: VectorsLike) -> Vector:
    """The direction alone: v / |v|, for a vector [d]; float32 [d]."""
    vector = _one(v, "v")
    return _float32(vector / _norm(vector, "v"))


def mix(base: VectorsLike, direction: VectorsLike, alpha: float) -> NDArray[np.float32]:
    """Move vectors along a direction, by a share of their own norm: base + alpha * |base| * unit(direction).

    Adding a direction to activations is activation addition: Turner et al., "Activation Addition: Steering Language
    Models Without Optimization" (2023, arXiv:2308.10248). The share of the norm makes `alpha` mean the same at every
    layer and for every model.

    Args:
        base: A vector [d], or vectors [N, d], each moved by its own norm.
        direction: [d]; its norm does not matter.
        alpha: How far; negative is the other way.

    Returns:
        float32, of the shape of `base`.

    Raises:
        InvalidVectorError: also a base that is all zero.
        InvalidArgumentError: an `alpha` that is not finite.
    """
    if not np.isfinite(alpha):
        raise InvalidArgumentError(f"alpha must be finite, not {alpha!r}")
    given = as_vectors(base, "float32", nonzero=True)
    along = _one(direction, "direction")
    along = along / _norm(along, "direction")
    rows = given.read(0, given.count).astype(np.float64)
    _check_widths(rows[0] if given.count else along, along)
    moved = _float32(rows + alpha * np.linalg.norm(rows, axis=1, keepdims=True) * along)
    return cast(NDArray[np.float32], moved[0] if given.single else moved)


def random_like(direction: VectorsLike, seed: int) -> Vector:
    """The control for a direction: g * |direction| / |g|, g Gaussian with mean 0 and variance 1 in each element.

    Such a g points everywhere alike. What a random direction of the same norm does, the direction's meaning did not do.

    Args:
        direction: [d].
        seed: Same seed, same width: same random direction.

    Returns:
        float32 [d], of the direction's norm.
    """
    norm = _norm(_one(direction, "direction"), "direction")
    drawn = np.random.default_rng(seed).standard_normal(len(_one(direction, "direction")))
    return _float32(drawn * (norm / np.linalg.norm(drawn)))


def edited(critic: Reconstructs, before: str, after: str, base: VectorsLike, alpha: float = 1.0) -> NDArray[np.float32]:
    """Move vectors the way that an edit of their explanation points.

    base + alpha * |base| * unit(AR(after) - AR(before)), AR being the reconstructor. So explanations are edited
    to steer in Fraser-Taliente et al., "Natural Language Autoencoders Produce Unsupervised Explanations of LLM
    Activations" (Transformer Circuits, 2026). The difference leaves out what the reconstructor adds to every text.

    Args:
        critic: An NLACritic. With an AsyncNLACritic await `reconstruct([before, after], dtype="float32")`, then `mix`.
        before: The explanation as it was.
        after: As it was edited.
        base: The vector [d] that it explains, or vectors [N, d].
        alpha: How far, as a share of each vector's norm.

    Returns:
        float32, of the shape of `base`.

    Raises:
        InvalidVectorError: both texts rebuild the same vector: the edit has no direction.
        InvalidArgumentError: a critic that must be awaited; an `alpha` that is not finite.
        APIStatusError, APIConnectionError, APITimeoutError: as for `reconstruct`.
    """
    as_vectors(base, "float32", nonzero=True)  # before anything is sent
    # In bfloat16, of two vectors that are nearly equal little more than rounding would be left.
    rebuilt = critic.reconstruct([before, after], dtype="float32")
    if not isinstance(rebuilt, np.ndarray):
        if hasattr(rebuilt, "close"):
            rebuilt.close()  # a coroutine that nobody awaits
        raise InvalidArgumentError("edited takes an NLACritic: with an asynchronous one await reconstruct, then mix")
    moved = rebuilt[1].astype(np.float64) - rebuilt[0]
    return mix(base, _direction(moved, "before and after rebuild the same vector"), alpha)


def _one(value: VectorsLike, name: str) -> NDArray[np.float64]:
    given = as_vectors(value, "float32")
    if not given.single:
        raise InvalidVectorError(f"{name} must be one vector [d], not {given.count} of them")
    vector: NDArray[np.float64] = given.read(0, 1)[0].astype(np.float64)
    return vector


def _mean(value: VectorsLike, name: str) -> NDArray[np.float64]:
    given = as_vectors(value, "float32")
    if not given.count:
        raise InvalidVectorError(f"{name} has no vectors: there is no mean of none")
    return np.asarray(given.read(0, given.count).mean(axis=0, dtype=np.float64))


def _norm(vector: NDArray[np.float64], name: str) -> float:
    norm = float(np.linalg.norm(vector))
    if norm == 0:
        raise InvalidVectorError(f"{name} is all zero: it has no direction")
    return norm


def _direction(vector: NDArray[np.float64], why: str) -> Vector:
    found = _float32(vector)
    if not found.any():
        raise InvalidVectorError(f"{why}: there is no direction between them")
    return found


def _float32(vector: NDArray[np.float64]) -> Vector:
    """In float32, which the result must fit."""
    with np.errstate(over="ignore"):
        found = vector.astype(np.float32)
    if not np.isfinite(found).all():
        raise InvalidVectorError("the result has elements too large for float32")
    return cast(Vector, found)


def _check_widths(first: NDArray[np.float64], second: NDArray[np.float64]) -> None:
    if len(first) != len(second):
        raise InvalidVectorError(f"widths differ: {len(first)} and {len(second)}")
