"""Directions, with numbers that are known."""

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from nla_client import InvalidArgumentError, InvalidVectorError, directions


def test_difference_of_means() -> None:
    found = directions.difference_of_means([[1.0, 2.0], [3.0, 6.0]], np.array([[0, 1], [0, 3], [3, 2]], np.float16))
    assert (found.tolist(), found.dtype) == ([1, 2], np.float32)
    assert directions.difference_of_means([5.0, 5.0], [1.0, 2.0]).tolist() == [4, 3]
    one = np.full((3, 2), 2**24, np.float32)  # means in float32 would lose the ones
    more = one + np.array([[0, 2], [2, 0], [4, 4]], np.float32)
    assert directions.difference_of_means(more, one).tolist() == [2, 2]


def test_means_are_of_all_rows() -> None:
    rows = np.random.default_rng(0).normal(size=(2000, 8)).astype(np.float32)
    wanted = rows[:1500].mean(axis=0, dtype=np.float64) - rows[1500:].mean(axis=0, dtype=np.float64)
    assert directions.difference_of_means(rows[:1500], rows[1500:]) == pytest.approx(wanted, abs=1e-7)


def test_unit() -> None:
    assert directions.unit([3.0, 4.0]).tolist() == pytest.approx([0.6, 0.8])
    assert directions.unit(np.array([0, -2], ml_dtypes.bfloat16)).tolist() == [0, -1]
    assert directions.unit([1e-30, 0.0]).tolist() == [1, 0]
    assert directions.unit([3e38, 3e38]).tolist() == pytest.approx([0.5**0.5] * 2)


def test_mix() -> None:
    assert directions.mix([3.0, 4.0], [0.0, 9.0], 2.0).tolist() == [3, 14]
    assert directions.mix([3.0, 4.0], [0.0, 9.0], -1.0).tolist() == [3, -1]
    assert directions.mix([3.0, 4.0], [0.0, 9.0], 0).tolist() == [3, 4]
    many = directions.mix([[3.0, 4.0], [0.0, 1.0]], [1.0, 0.0], 1.0)
    assert (many.tolist(), many.dtype) == ([[8, 4], [1, 1]], np.float32)


def test_random_like() -> None:
    direction = np.arange(1000, dtype=np.float32)
    drawn = directions.random_like(direction, 1)
    assert (drawn.shape, drawn.dtype) == ((1000,), np.float32)
    assert np.linalg.norm(drawn) == pytest.approx(np.linalg.norm(direction), rel=1e-5)
    assert np.array_equal(drawn, directions.random_like(direction, 1))
    other = directions.random_like(direction, 2)
    cosines = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in ((drawn, direction), (drawn, other))]
    assert np.abs(cosines).max() < 0.15


def test_edited(faces: Any, server: Any) -> None:
    critic = faces.critic()
    if critic.is_async:
        with pytest.raises(InvalidArgumentError, match="with an asynchronous one await reconstruct"):
            directions.edited(critic.client, "1", "3", [3.0, 4.0])
        return
    # The server rebuilds [number, 1].
    assert directions.edited(critic.client, "1", "3", [3.0, 4.0]).tolist() == [8, 4]
    assert server.bodies[-1]["dtype"] == "float32"
    assert directions.edited(critic.client, "3", "1", [[3.0, 4.0], [0.0, 2.0]], alpha=0.5).tolist() == [
        [0.5, 4],
        [-1, 2],
    ]
    assert server.bodies[0]["texts"] == ["1", "3"]
    with pytest.raises(InvalidVectorError, match="before and after rebuild the same vector"):
        directions.edited(critic.client, "1", "1", [3.0, 4.0])
    asked = len(server.requests)
    with pytest.raises(InvalidVectorError, match="all zero"):
        directions.edited(critic.client, "1", "2", [0.0, 0.0])
    assert len(server.requests) == asked


def test_tensors() -> None:
    torch = pytest.importorskip("torch")
    base = torch.tensor([3.0, 4.0], dtype=torch.bfloat16)
    assert directions.mix(base, torch.tensor([0.0, 1.0]), 1.0).tolist() == [3, 9]


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: directions.unit([0.0, 0.0]), "v is all zero: it has no direction"),
        (lambda: directions.unit([np.nan, 1.0]), "NaN"),
        (lambda: directions.unit([[1.0]]), r"v must be one vector \[d\], not 1"),
        (lambda: directions.mix([1.0], [0.0], 1.0), "direction is all zero"),
        (lambda: directions.mix([1.0], [np.inf], 1.0), "infinite"),
        (lambda: directions.mix([0.0], [1.0], 1.0), "all zero"),
        (lambda: directions.mix([1.0, 2.0], [1.0], 1.0), "widths differ: 2 and 1"),
        (lambda: directions.mix([1.0], [1.0], np.nan), "alpha must be finite"),
        (lambda: directions.mix([3e38], [1.0], 9.0), "too large for float32"),
        (lambda: directions.difference_of_means([[1.0]], [[1.0]]), "the means of a and b are equal"),
        (lambda: directions.difference_of_means([], [[1.0]]), "a has no vectors"),
        (lambda: directions.difference_of_means([[1.0]], [[1.0, 2.0]]), "widths differ"),
        (lambda: directions.random_like([0.0, 0.0], 0), "direction is all zero"),
    ],
)
def test_what_has_no_direction_is_refused(call: Any, match: str) -> None:
    with pytest.raises((InvalidVectorError, InvalidArgumentError), match=match):
        call()
