"""The three calls, from parsed request to contract answer. HTTP stays outside, SGLang's wire stays below."""

import asyncio
import secrets
import uuid
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from nla_client.wire import (
    CriticRequest,
    CriticResponse,
    CriticResult,
    ReconstructRequest,
    ReconstructResponse,
    Sample,
    SampleDelta,
    SampleDone,
    SampleError,
    Score,
    StreamDone,
    StreamEvent,
    Usage,
    VerbalizeRequest,
    VerbalizeResponse,
    VerbalizeResult,
    add_usage,
    encode_vector,
)
from nla_gateway.api.fields import as_list, field_names, parse_vectors
from nla_gateway.api.http import error_detail
from nla_gateway.api.outbox import Outbox
from nla_gateway.engines.concurrency import Owner, gather, map_in_slices
from nla_gateway.errors import InvalidRequest, PayloadTooLarge
from nla_gateway.gateway import Gateway
from nla_gateway.pair.injection import Injection
from nla_gateway.pair.verbalizer import Generated, Ticket, ticket

T = TypeVar("T")


class VerbalizeJob:
    """One `/verbalize` request: every sample of every vector runs at the same time."""

    def __init__(self, gateway: Gateway, call: VerbalizeRequest, request_id: str) -> None:
        self._gateway, self._call, self._request_id = gateway, call, request_id
        self._vectors: list[NDArray[np.float32]] = []
        self._injected: list[Injection] = []
        self._seed = secrets.randbelow(2**31) if call.seed is None else call.seed
        count = len(as_list(call.vectors))
        self._owner = owner_of(request_id, count * call.n)
        check_batch(gateway, count, "vectors")
        self._check_sampling(count)
        self._places = [(index, sample) for index in range(count) for sample in range(call.n)]
        self._verbalizer = gateway.verbalizer()
        self._reconstructor = gateway.reconstructor() if call.score else None
        if self._reconstructor is not None:
            self._reconstructor.require_scorable("score")

    @classmethod
    async def prepare(cls, gateway: Gateway, call: VerbalizeRequest, request_id: str) -> Self:
        """Check the request and decode its vectors.

        Raises:
            RequestError: it is wrong, or its engines are not ready.
        """
        job = cls(gateway, call, request_id)
        job._vectors = await parse_vectors(call.vectors, call.dtype, job._verbalizer.sidecar.d_model)
        named = zip(job._vectors, field_names("vectors", call.vectors), strict=True)
        job._injected = await map_in_slices(lambda item: job._verbalizer.inject(*item), named)
        return job

    async def run(self) -> VerbalizeResponse:
        """Answer in one piece; the first failure ends the whole request."""
        with self._gateway.admission.admit(len(self._places)):
            done = await within(self._gateway, gather(self._sample(*place) for place in self._places))
        self._gateway.metrics.vectors("/verbalize", len(self._vectors))
        n = self._call.n
        results = [
            VerbalizeResult(index=i, samples=[sample for sample, _ in done[i * n : (i + 1) * n]])
            for i in range(len(self._vectors))
        ]
        usage = add_usage([part for _, part in done])
        return VerbalizeResponse(model=self._verbalizer.settings.model, results=results, usage=usage)

    async def events(self) -> AsyncGenerator[StreamEvent, None]:
        """Answer piece by piece; a sample that fails says so and leaves the others alone."""
        with self._gateway.admission.admit(len(self._places)):
            outbox, used = Outbox(), list[Usage]()
            tasks = [asyncio.create_task(self._stream_sample(*place, outbox, used)) for place in self._places]
            try:
                running = len(tasks)
                while running:
                    event = await outbox.get()
                    running -= not isinstance(event, SampleDelta)
                    yield event
                self._gateway.metrics.vectors("/verbalize", len(self._vectors))
                yield StreamDone(usage=add_usage(used))
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _sample(self, index: int, sample: int) -> tuple[Sample, Usage]:
        generated = await self._verbalizer.sample(self._injected[index], self._call, self._ticket(index, sample))
        return await self._finished(index, generated), generated.usage

    async def _stream_sample(self, index: int, sample: int, outbox: Outbox, used: list[Usage]) -> None:
        """Put one sample's deltas into the outbox, and exactly one SampleDone or SampleError after them."""
        try:
            async with self._gateway.deadlines.within():
                stream = self._verbalizer.stream(self._injected[index], self._call, self._ticket(index, sample))
                async with aclosing(stream) as pieces:
                    async for piece in pieces:
                        if isinstance(piece, str):
                            outbox.add((index, sample), piece)
                        else:
                            used.append(piece.usage)
                            done = await self._finished(index, piece)
                            outbox.end(SampleDone(index=index, sample=sample, **dict(done)))
        except Exception as error:  # whatever it was, the stream goes on and says so
            detail = error_detail(error, self._request_id)
            outbox.end(SampleError(index=index, sample=sample, error=detail))

    async def _finished(self, index: int, generated: Generated) -> Sample:
        self._gateway.metrics.sample(complete=generated.complete)
        self._gateway.metrics.tokens("verbalizer", generated.usage)
        return Sample(
            text=generated.text,
            complete=generated.complete,
            finish_reason=generated.finish_reason,
            score=await self._score(generated.text, self._vectors[index]),
        )

    async def _score(self, text: str, vector: NDArray[np.float32]) -> Score | None:
        if self._reconstructor is None:
            return None
        try:
            scores, usage = await self._reconstructor.score([text], [vector], [None], self._owner)
        except InvalidRequest:
            return None  # a text that the reconstructor cannot take, too long say: no fault of the caller's
        self._gateway.metrics.tokens("reconstructor", usage)
        self._gateway.metrics.scores(scores)
        return scores[0]

    def _ticket(self, index: int, sample: int) -> Ticket:
        return ticket(self._owner, self._seed, index, sample)

    def _check_sampling(self, vectors: int) -> None:
        limits = self._gateway.limits
        if self._call.n > limits.max_n:
            raise InvalidRequest(f"n is {self._call.n}; at most {limits.max_n} samples a vector", param="n")
        if self._call.max_tokens > limits.max_tokens:
            message = f"max_tokens is {self._call.max_tokens}; at most {limits.max_tokens} fit"
            raise InvalidRequest(message, param="max_tokens")
        if vectors * self._call.n > limits.max_samples:
            message = f"{vectors} vectors times n = {self._call.n} is over {limits.max_samples} samples a request"
            raise PayloadTooLarge(message, param="vectors")


def owner_of(request_id: str, items: int) -> Owner:
    """Name a request within the gateway and the engines; callers may use one request id twice."""
    return Owner(f"{request_id}.{uuid.uuid4().hex[:8]}", items)


async def within(gateway: Gateway, work: Coroutine[Any, Any, T]) -> T:
    """Run work for as long as a request may take.

    Raises:
        RequestTimeout: it took longer, and was cancelled.
        EngineUnavailable: the gateway stopped meanwhile.
    """
    async with gateway.deadlines.within():
        return await work


def check_batch(gateway: Gateway, count: int, param: str) -> None:
    """Raise PayloadTooLarge for a batch over the limit."""
    if count > gateway.limits.max_batch:
        message = f"{count} {param} in one request; at most {gateway.limits.max_batch}: send several requests"
        raise PayloadTooLarge(message, param=param)


async def reconstruct(gateway: Gateway, call: ReconstructRequest, request_id: str) -> ReconstructResponse:
    """Answer `/reconstruct`."""
    texts = as_list(call.texts)
    check_batch(gateway, len(texts), "texts")
    reconstructor = gateway.reconstructor()
    with gateway.admission.admit(len(texts)):
        work = reconstructor.reconstruct(texts, field_names("texts", call.texts), owner_of(request_id, len(texts)))
        vectors, usage = await within(gateway, work)
    gateway.metrics.tokens("reconstructor", usage)
    gateway.metrics.vectors("/reconstruct", len(vectors))
    encoded = await map_in_slices(lambda vector: encode_vector(vector, call.dtype), vectors)
    return ReconstructResponse(
        model=reconstructor.settings.model,
        dtype=call.dtype,
        d_model=reconstructor.sidecar.d_model,
        vectors=encoded,
        usage=usage,
    )


async def critic(gateway: Gateway, call: CriticRequest, request_id: str) -> CriticResponse:
    """Answer `/critic`."""
    texts, count = as_list(call.texts), len(as_list(call.vectors))
    check_batch(gateway, len(texts), "texts")
    if len(texts) != count:
        raise InvalidRequest(f"{len(texts)} texts and {count} vectors: give pairs", param="vectors")
    reconstructor = gateway.reconstructor()
    reconstructor.require_scorable(None)
    d_model = reconstructor.sidecar.d_model
    vectors = await parse_vectors(call.vectors, call.dtype, d_model)
    with gateway.admission.admit(len(texts)):
        work = reconstructor.score(texts, vectors, field_names("texts", call.texts), owner_of(request_id, len(texts)))
        scores, usage = await within(gateway, work)
    gateway.metrics.tokens("reconstructor", usage)
    gateway.metrics.vectors("/critic", len(scores))
    gateway.metrics.scores(scores)
    results = [CriticResult(index=index, **dict(values)) for index, values in enumerate(scores)]
    return CriticResponse(model=reconstructor.settings.model, results=results, usage=usage)
