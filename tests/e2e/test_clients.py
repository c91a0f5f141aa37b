"""The clients against the real gateway: batches, streams, scores, errors, sync and async alike."""

import asyncio

import ml_dtypes
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from nla_client import (
    APIConnectionError,
    AsyncNLAClient,
    AsyncNLACritic,
    InvalidRequestError,
    NLAClient,
    NLACritic,
    SampleDone,
    StreamDone,
)
from tests.plain import texts_of, verbalize
from tests.stack import Stack, free_port


def test_batches_are_split_and_keep_their_order(toy: Stack, toy_vectors: NDArray[np.float32]) -> None:
    wanted = texts_of(verbalize(toy, toy_vectors))
    with NLAClient(toy.url, batch_size=5, max_in_flight=4) as nla:
        got = nla.verbalize(toy_vectors, dtype="float32", temperature=0)
    assert [str(one) for one in got] == wanted


def test_async_equals_sync(toy: Stack, toy_vectors: NDArray[np.float32]) -> None:
    async def run() -> tuple[list[str], NDArray[np.float32]]:
        async with AsyncNLAClient(toy.url, batch_size=7) as nla, AsyncNLACritic(toy.url) as critic:
            texts = [v.text for v in await nla.verbalize(toy_vectors, dtype="float32", seed=9)]
            return texts, await critic.reconstruct(texts[:3], dtype="float32")

    texts, vectors = asyncio.run(run())
    with NLAClient(toy.url) as nla, NLACritic(toy.url) as critic:
        assert [v.text for v in nla.verbalize(toy_vectors, dtype="float32", seed=9)] == texts
        np.testing.assert_allclose(critic.reconstruct(texts[:3], dtype="float32"), vectors, rtol=1e-4, atol=1e-3)


def test_every_kind_of_array(toy: Stack, toy_vectors: NDArray[np.float32]) -> None:
    vector = toy_vectors[0].astype(ml_dtypes.bfloat16)
    kinds = [
        vector,
        vector.astype(np.float32),
        vector.astype(np.float64),
        torch.from_numpy(vector.astype(np.float32)),
        torch.from_numpy(vector.astype(np.float32)).to(torch.bfloat16).requires_grad_(),
        vector.astype(np.float32).tolist(),
    ]
    with NLAClient(toy.url) as nla:
        assert len({str(nla.verbalize(kind, temperature=0)) for kind in kinds}) == 1


def test_scores_and_reconstruction(toy: Stack, toy_vectors: NDArray[np.float32]) -> None:
    with NLAClient(toy.url) as nla, NLACritic(toy.url) as critic:
        explained = nla.verbalize(toy_vectors[0], dtype="float32", n=3, score=True)
        assert len(explained.samples) == 3
        assert explained.score is not None
        again = critic.score(explained.text, toy_vectors[0], dtype="float32")
        assert again.mse == pytest.approx(explained.score.mse, abs=1e-4)
        assert critic.reconstruct(explained.text).shape == (256,)
        assert [s.fve is not None for s in critic.score(["a", "b"], toy_vectors[:2])] == [True, True]


def test_streams(toy: Stack, toy_vectors: NDArray[np.float32]) -> None:
    with NLAClient(toy.url) as nla:
        events = list(nla.verbalize(toy_vectors[:2], stream=True))
        assert isinstance(events[-1], StreamDone)
        assert sorted(e.index for e in events if isinstance(e, SampleDone)) == [0, 1]


def test_errors(toy: Stack, toy_vectors: NDArray[np.float32]) -> None:
    with NLAClient(toy.url) as nla:
        with pytest.raises(InvalidRequestError) as caught:
            nla.verbalize(np.ones((3, 7)))
        assert caught.value.status_code == 400
        assert caught.value.param == "vectors[0]"
        assert caught.value.request_id
    with NLAClient(f"http://127.0.0.1:{free_port()}", max_retries=0) as nobody, pytest.raises(APIConnectionError):
        nobody.verbalize(toy_vectors[0])
