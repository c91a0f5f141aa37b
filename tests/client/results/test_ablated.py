"""Every text against every vector, and what the parts of a text are worth."""

from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest

from nla_client import (
    Ablation,
    Ablations,
    InvalidArgumentError,
    InvalidRequestError,
    InvalidResponseError,
    InvalidVectorError,
    ScoreMatrix,
)
from nla_client.calls import pairs


@pytest.mark.parametrize("baseline", [None, 2.0])
def test_score_all(faces: Any, server: Any, monkeypatch: pytest.MonkeyPatch, baseline: float | None) -> None:
    monkeypatch.setattr(pairs, "MATRIX_VECTORS", 3)
    server.baseline = baseline
    texts, vectors = ["1", "2", "5", "7", "9"], np.arange(1, 8, dtype=np.float32)[:, None]
    wanted = np.abs(np.array([1, 2, 5, 7, 9])[:, None] - np.arange(1, 8)[None])
    matrix = faces.critic(batch_size=2).score_all(texts, vectors)
    assert isinstance(matrix, ScoreMatrix)
    assert matrix.mse.dtype == matrix.cosine.dtype == np.float64
    assert np.array_equal(matrix.mse, wanted)
    assert np.array_equal(matrix.cosine, 1 - wanted / 2)
    assert (matrix.fve is None) if baseline is None else np.array_equal(matrix.fve, 1 - wanted / baseline)
    assert (matrix.model, matrix.usage.prompt_tokens) == ("m", 9)
    assert {(len(body["texts"]), len(body["vectors"])) for body in server.bodies} == {(2, 3), (2, 1), (1, 3), (1, 1)}
    assert {body["pairs"] for body in server.bodies} == {"all"}


def test_a_matrix_too_large_for_the_server_goes_in_halves(
    faces: Any, server: Any, error_body: Callable[..., dict[str, Any]]
) -> None:
    answer = server.critic

    def small_alone(body: Any) -> httpx.Response:
        too_large = httpx.Response(413, json=error_body("payload_too_large"))
        return too_large if len(body["vectors"]) > 2 or len(body["texts"]) > 1 else answer(body)

    server.critic = small_alone
    matrix = faces.critic().score_all(["1", "2", "3"], np.arange(1, 8)[:, None])
    assert np.array_equal(matrix.mse, np.abs(np.arange(1, 4)[:, None] - np.arange(1, 8)[None]))


def test_a_matrix_of_none_sends_nothing(faces: Any, server: Any) -> None:
    critic = faces.critic()
    assert critic.score_all([], np.ones((3, 2))).mse.shape == (0, 3)
    empty = critic.score_all(["1"], [])
    assert (empty.cosine.shape, empty.fve, empty.model) == ((1, 0), None, "")
    for texts, vectors in (("1", np.ones((2, 2))), (["1"], np.ones(2))):
        with pytest.raises(InvalidArgumentError, match="a list of texts and vectors"):
            critic.score_all(texts, vectors)
    with pytest.raises(InvalidVectorError, match="all zero"):
        critic.score_all(["1"], np.zeros((1, 2)))
    assert server.requests == []


def test_errors_count_over_the_matrix(
    faces: Any, server: Any, error_body: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pairs, "MATRIX_VECTORS", 3)
    for param, whole in {"texts[1]": "texts[3]", "vectors[1]": "vectors[4]", "by": "by"}.items():
        bad = httpx.Response(400, json=error_body("invalid_request", param=param))
        server.script = [None, None, None, bad]  # the second texts against the second vectors
        with pytest.raises(InvalidRequestError) as caught:
            faces.critic(batch_size=2, max_in_flight=1).score_all(["1"] * 4, np.ones((6, 2)))
        assert caught.value.param == whole


def test_a_matrix_that_does_not_fit(faces: Any, server: Any) -> None:
    usage = {"prompt_tokens": 0, "cached_tokens": 0, "completion_tokens": 0}
    good = {"model": "m", "mse": [[0.0]], "cosine": [[1.0]], "fve": None, "usage": usage}
    for changes in ({"mse": []}, {"cosine": [[1.0, 1.0]]}, {"fve": [[]]}):
        server.script = [httpx.Response(200, json=good | changes)]
        with pytest.raises(InvalidResponseError, match="not of 1 texts by 1 vectors"):
            faces.critic().score_all(["1"], [[1.0]])


def test_ablate(faces: Any, server: Any) -> None:
    server.baseline = 2.0
    critic = faces.critic(batch_size=16)
    told = critic.ablate("aaa b", [1.0, 2.0], by="word")
    assert isinstance(told, Ablation)
    assert (told.text, told.score.mse, told.empty.mse) == ("aaa b", 0, 0.4)
    assert [(part.text, part.without.mse, part.upto.mse) for part in told.parts] == [("aaa", 0.3, 0.1), ("b", 0.1, 0)]
    assert told.carried == pytest.approx((0.15, 0.05))
    assert server.bodies[0]["by"] == "word"
    many = critic.ablate([f"{'a' * k} b" for k in range(1, 6)], np.ones((5, 2)))
    assert isinstance(many, Ablations)
    assert [one.empty.mse for one in many] == pytest.approx([0.2, 0.3, 0.4, 0.5, 0.6])
    assert sorted(len(body["texts"]) for body in server.bodies[1:]) == [1, 2, 2]
    assert (many.model, many.usage.prompt_tokens) == ("m", 3)
    assert critic.ablate([], []) == []


def test_ablated_pairs_are_checked(faces: Any, server: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="do not pair up"):
        faces.critic().ablate(["a"], np.ones((2, 2)))
    assert server.requests == []
