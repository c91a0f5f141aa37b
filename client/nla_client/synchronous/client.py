# Made from asynchronous/client.py by `make unasync`: change that one.
"""The clients. What they send is in `calls`, how in `connection`."""

from typing import Any, Literal, overload

from nla_client.calls import pairs, replies
from nla_client.calls.arguments import ManyTexts, OneText, as_array, as_texts, check_matrix, check_pairs, check_stream
from nla_client.calls.base import Sampling
from nla_client.results.ablated import Ablation, Ablations, ScoreMatrix
from nla_client.results.verbalized import Scores, Verbalization, Verbalizations
from nla_client.synchronous.base import Client
from nla_client.synchronous.stream import EventStream
from nla_client.synchronous.texts import SourceClient
from nla_client.vectors import ManyVectors, Matrix, OneVector, Vector, VectorsLike, as_vectors
from nla_client.wire import PartKind, Score, VectorDType


class NLAClient(SourceClient):
    """Vectors to texts: the verbalizer; and from texts to what they make the source model hold, in words."""

    @overload
    def verbalize(
        self,
        vec: ManyVectors,
        *,
        dtype: VectorDType = "bfloat16",
        n: int = 1,
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int | None = None,
        max_tokens: int | None = None,
        seed: int | None = None,
        score: bool = False,
        best: bool = False,
        stream: Literal[False] = False,
    ) -> Verbalizations: ...
    @overload
    def verbalize(
        self,
        vec: OneVector,
        *,
        dtype: VectorDType = "bfloat16",
        n: int = 1,
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int | None = None,
        max_tokens: int | None = None,
        seed: int | None = None,
        score: bool = False,
        best: bool = False,
        stream: Literal[False] = False,
    ) -> Verbalization: ...
    @overload
    def verbalize(
        self,
        vec: VectorsLike,
        *,
        dtype: VectorDType = "bfloat16",
        n: int = 1,
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int | None = None,
        max_tokens: int | None = None,
        seed: int | None = None,
        score: bool = False,
        best: bool = False,
        stream: Literal[True],
    ) -> EventStream: ...
    @overload
    def verbalize(
        self,
        vec: VectorsLike,
        *,
        dtype: VectorDType = "bfloat16",
        n: int = 1,
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int | None = None,
        max_tokens: int | None = None,
        seed: int | None = None,
        score: bool = False,
        best: bool = False,
        stream: bool = False,
    ) -> Any: ...  # [d] or [N, d]: a type checker cannot tell
    def verbalize(
        self,
        vec: VectorsLike,
        *,
        dtype: VectorDType = "bfloat16",
        n: int = 1,
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int | None = None,
        max_tokens: int | None = None,
        seed: int | None = None,
        score: bool = False,
        best: bool = False,
        stream: bool = False,
    ) -> Verbalization | Verbalizations | EventStream:
        """Say in words what a vector holds.

        Args:
            vec: Activation [d], or a batch [N, d] of any N: numpy, torch (any device), Arrow or pandas columns of rows,
                or sequences, of real numbers; uint16 is the bits of bfloat16.
            dtype: What the vectors are sent as.
            n: Samples of each vector.
            temperature: 0 means greedy.
            top_p: Sample from the likeliest tokens of this total probability.
            top_k: Sample from so many likeliest tokens; None for all.
            max_tokens: Most tokens of a sample; None for 200, or for the server's limit where that is less.
            seed: Same seed, same vectors: same samples.
            score: Score every text against its vector.
            best: Score them, and choose of the `n` samples the one whose mse is lowest; all stay in `samples`.
            stream: Give events as they come; one request only, so at most `batch_size` vectors.

        Returns:
            For [d] a Verbalization; for [N, d] a list of them, in order, that also has `model`, `usage`,
            `to_pandas()` and `to_arrow()`; with `stream` an iterator of events.

        Raises:
            InvalidVectorError: vectors that no server would take; nothing was sent.
            ClientStateError: the client was closed, or cannot be used here.
            APIStatusError: one subclass for each type; the first request that fails stops the rest.
            APIConnectionError: no connection; APITimeoutError: no answer in time.
        """
        vectors = as_vectors(vec, dtype, nonzero=True)
        sampling = Sampling(dtype, n, temperature, top_p, top_k, max_tokens, seed, score or best)
        if stream:
            check_stream(best=best)
            call = pairs.verbalize_stream(vectors, sampling, self._batch_size)
            return self._connection.stream(call, EventStream)
        parts = self._connection.send_all(pairs.verbalize(vectors, sampling, self._batch_size))
        results = Verbalizations.join(parts)
        if best:
            results = results.with_best()
        return results[0] if vectors.single else results


class NLACritic(Client):
    """Texts to vectors, and scores of texts against vectors: the reconstructor and the critic."""

    @overload
    def reconstruct(self, text: OneText, *, dtype: VectorDType = "bfloat16") -> Vector: ...
    @overload
    def reconstruct(self, text: ManyTexts, *, dtype: VectorDType = "bfloat16") -> Matrix: ...
    def reconstruct(self, text: OneText | ManyTexts, *, dtype: VectorDType = "bfloat16") -> Vector | Matrix:
        """Rebuild the vector that a text describes.

        Args:
            text: An explanation, or a list or column of any length; what `verbalize` returned is taken for its texts.
            dtype: What the vectors are sent back as.

        Returns:
            float32 [d], unnormalised; for a list [N, d], in order (for an empty one [0, 0]).

        Raises:
            InvalidArgumentError: not a str or a list of str.
            APIStatusError, APIConnectionError, APITimeoutError: as for `verbalize`.
        """
        texts, single = as_texts(text)
        vectors = self._connection.send_all(pairs.reconstruct(texts, dtype, self._batch_size))
        return as_array(vectors, single)

    @overload
    def score(self, text: OneText, vec: VectorsLike, *, dtype: VectorDType = "bfloat16") -> Score: ...
    @overload
    def score(self, text: ManyTexts, vec: VectorsLike, *, dtype: VectorDType = "bfloat16") -> Scores: ...
    def score(self, text: OneText | ManyTexts, vec: VectorsLike, *, dtype: VectorDType = "bfloat16") -> Score | Scores:
        """Tell how near the vector rebuilt from a text comes to the true one.

        Args:
            text: An explanation, or N of them of any N, as for `reconstruct`.
            vec: The vector [d] that it should describe, or [N, d], as for `verbalize`.
            dtype: What the vectors are sent as.

        Returns:
            A Score; for a list a list, in order. `fve` is None where the server has no baseline.

        Raises:
            InvalidArgumentError: not a str or a list of str, or not as many vectors.
            InvalidVectorError, APIStatusError, APIConnectionError, APITimeoutError: as for `verbalize`.
        """
        texts, single = as_texts(text)
        vectors = as_vectors(vec, dtype, nonzero=True)
        check_pairs(texts, single, vectors)
        scores = Scores.join(self._connection.send_all(pairs.critic(texts, vectors, self._batch_size)))
        return scores[0] if single else scores

    def score_all(self, texts: ManyTexts, vectors: VectorsLike, *, dtype: VectorDType = "bfloat16") -> ScoreMatrix:
        """Score every text against every vector; a text is rebuilt once for many vectors.

        Args:
            texts: N explanations, as for `score`.
            vectors: M vectors [M, d], as for `score`.
            dtype: What the vectors are sent as.

        Returns:
            Arrays `mse`, `cosine` and `fve`, float64 [N, M] each; `fve` is None where the server has no baseline.

        Raises:
            InvalidArgumentError: one text or one vector alone.
            InvalidVectorError, APIStatusError, APIConnectionError, APITimeoutError: as for `score`.
        """
        many, single = as_texts(texts)
        given = as_vectors(vectors, dtype, nonzero=True)
        check_matrix(single, given)
        blocks = self._connection.send_all(pairs.critic_matrix(many, given, self._batch_size))
        return replies.matrix(blocks, len(many), given.count)

    @overload
    def ablate(
        self, text: OneText, vec: VectorsLike, *, by: PartKind = "sentence", dtype: VectorDType = "bfloat16"
    ) -> Ablation: ...
    @overload
    def ablate(
        self, text: ManyTexts, vec: VectorsLike, *, by: PartKind = "sentence", dtype: VectorDType = "bfloat16"
    ) -> Ablations: ...
    def ablate(
        self,
        text: OneText | ManyTexts,
        vec: VectorsLike,
        *,
        by: PartKind = "sentence",
        dtype: VectorDType = "bfloat16",
    ) -> Ablation | Ablations:
        """Tell which words of a text carry it: what it is worth without each part, and up to each part's end.

        Args:
            text: An explanation, or N of them of any N, as for `score`.
            vec: The vector [d] that it should describe, or [N, d], as for `score`.
            by: What the text is taken apart into: `paragraph`, `line`, `sentence`, `word` or `quote`.
            dtype: What the vectors are sent as.

        Returns:
            For one text an Ablation; for a list a list of them, in order, that also has `model`, `usage`,
            `to_pandas()` and `to_arrow()`, a row for each part.

        Raises:
            InvalidArgumentError, InvalidVectorError: as for `score`.
            APIStatusError, APIConnectionError, APITimeoutError: as for `verbalize`.
        """
        texts, single = as_texts(text)
        vectors = as_vectors(vec, dtype, nonzero=True)
        check_pairs(texts, single, vectors)
        told = Ablations.join(self._connection.send_all(pairs.ablate(texts, vectors, by, self._batch_size)))
        return told[0] if single else told
