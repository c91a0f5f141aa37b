"""The asynchronous clients: `client` with `await`; `tests/client/test_client.py` holds the two together."""

from types import TracebackType
from typing import Any, Literal, Self, overload

import httpx

from nla_client import calls
from nla_client.calls import ManyTexts, OneText
from nla_client.connection import AsyncConnection
from nla_client.errors import EngineUnavailableError
from nla_client.results import Scores, Verbalization, Verbalizations
from nla_client.settings import Settings
from nla_client.stream import AsyncEventStream
from nla_client.vectors import ManyVectors, Matrix, OneVector, Vector, VectorsLike, as_vectors
from nla_client.wire import Info, Score, VectorDType


class AsyncClient:
    """What both clients share. For tasks of one asyncio event loop, any number; an async context manager.

    In a second event loop it raises ClientStateError; after a fork, and pickled, it works in a loop of its own.

    Args:
        base_url: Such as `http://host:8000`.
        api_key: Sent as `Authorization: Bearer KEY`; by default the environment's NLA_API_KEY.
        timeout: Seconds to wait for each read and write, None for ever; for a connection at most 10 in any case.
        max_retries: Attempts after the first, on connection errors, 429 and 503.
        batch_size: Most vectors or texts in one request; a larger batch is split.
        max_in_flight: Most requests that one call has under way at once.
        max_connections: Most requests that all calls together have under way at once, unread streams too; others wait.
        transport: Replaces the network, for instance `httpx.MockTransport` in tests.

    Raises:
        InvalidArgumentError: not an http(s) URL, an api_key that no header can hold, a limit below its least, or a
            variable of the environment about proxies or certificates that makes no sense.
    """

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        timeout: float | None = 120,
        max_retries: int = 2,
        batch_size: int = 64,
        max_in_flight: int = 8,
        max_connections: int = 128,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        settings = Settings(base_url, api_key, timeout, max_retries, batch_size, max_in_flight, max_connections)
        self._batch_size = batch_size
        self._connection = AsyncConnection(settings, transport)

    async def info(self) -> Info:
        """What the server serves: model names, layer, d_model, scales, limits, versions."""
        return await self._connection.send(calls.info())

    async def ready(self) -> bool:
        """Whether every engine of the server has passed its self-test. Not retried."""
        try:
            return await self._connection.send(calls.ready())
        except EngineUnavailableError:
            return False

    async def aclose(self) -> None:
        """Close all connections; the client cannot be used afterwards."""
        await self._connection.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


class AsyncNLAClient(AsyncClient):
    """Vectors to texts: the verbalizer."""

    @overload
    async def verbalize(
        self,
        vec: ManyVectors,
        *,
        dtype: VectorDType = "bfloat16",
        n: int = 1,
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int | None = None,
        max_tokens: int = 200,
        seed: int | None = None,
        score: bool = False,
        best: bool = False,
        stream: Literal[False] = False,
    ) -> Verbalizations: ...
    @overload
    async def verbalize(
        self,
        vec: OneVector,
        *,
        dtype: VectorDType = "bfloat16",
        n: int = 1,
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int | None = None,
        max_tokens: int = 200,
        seed: int | None = None,
        score: bool = False,
        best: bool = False,
        stream: Literal[False] = False,
    ) -> Verbalization: ...
    @overload
    async def verbalize(
        self,
        vec: VectorsLike,
        *,
        dtype: VectorDType = "bfloat16",
        n: int = 1,
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int | None = None,
        max_tokens: int = 200,
        seed: int | None = None,
        score: bool = False,
        best: bool = False,
        stream: Literal[True],
    ) -> AsyncEventStream: ...
    @overload
    async def verbalize(
        self,
        vec: VectorsLike,
        *,
        dtype: VectorDType = "bfloat16",
        n: int = 1,
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int | None = None,
        max_tokens: int = 200,
        seed: int | None = None,
        score: bool = False,
        best: bool = False,
        stream: bool = False,
    ) -> Any: ...  # [d] or [N, d]: a type checker cannot tell
    async def verbalize(
        self,
        vec: VectorsLike,
        *,
        dtype: VectorDType = "bfloat16",
        n: int = 1,
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int | None = None,
        max_tokens: int = 200,
        seed: int | None = None,
        score: bool = False,
        best: bool = False,
        stream: bool = False,
    ) -> Verbalization | Verbalizations | AsyncEventStream:
        """Say in words what a vector holds; arguments and errors as of `NLAClient.verbalize`.

        Returns:
            For [d] a Verbalization; for [N, d] Verbalizations, in order; with `stream` an async iterator of
            events, to be closed with `aclose` (or `async with`) where it is left early.
        """
        vectors = as_vectors(vec, dtype, nonzero=True)
        sampling = calls.Sampling(dtype, n, temperature, top_p, top_k, max_tokens, seed, score or best)
        if stream:
            calls.check_stream(best=best)
            return await self._connection.stream(calls.verbalize_stream(vectors, sampling, self._batch_size))
        parts = await self._connection.send_all(calls.verbalize(vectors, sampling, self._batch_size))
        results = Verbalizations.join(parts)
        if best:
            results = results.with_best()
        return results[0] if vectors.single else results


class AsyncNLACritic(AsyncClient):
    """Texts to vectors, and scores of texts against vectors: the reconstructor and the critic."""

    @overload
    async def reconstruct(self, text: OneText, *, dtype: VectorDType = "bfloat16") -> Vector: ...
    @overload
    async def reconstruct(self, text: ManyTexts, *, dtype: VectorDType = "bfloat16") -> Matrix: ...
    async def reconstruct(self, text: OneText | ManyTexts, *, dtype: VectorDType = "bfloat16") -> Vector | Matrix:
        """Rebuild the vector that a text describes; arguments and errors as of `NLACritic.reconstruct`.

        Returns:
            float32 [d], unnormalised; for a list [N, d], in order (for an empty one [0, 0]).
        """
        texts, single = calls.as_texts(text)
        vectors = await self._connection.send_all(calls.reconstruct(texts, dtype, self._batch_size))
        return calls.as_array(vectors, single)

    @overload
    async def score(self, text: OneText, vec: VectorsLike, *, dtype: VectorDType = "bfloat16") -> Score: ...
    @overload
    async def score(self, text: ManyTexts, vec: VectorsLike, *, dtype: VectorDType = "bfloat16") -> Scores: ...
    async def score(
        self, text: OneText | ManyTexts, vec: VectorsLike, *, dtype: VectorDType = "bfloat16"
    ) -> Score | Scores:
        """Tell how near the vector rebuilt from a text comes to the true one, as `NLACritic.score`.

        Returns:
            A Score; for a list a list, in order. `fve` is None where the server has no baseline.
        """
        texts, single = calls.as_texts(text)
        vectors = as_vectors(vec, dtype, nonzero=True)
        calls.check_pairs(texts, single, vectors)
        scores = Scores.join(await self._connection.send_all(calls.critic(texts, vectors, self._batch_size)))
        return scores[0] if single else scores
