"""The three calls, from parsed request to contract answer. HTTP stays outside, SGLang's wire stays below."""

import asyncio
import secrets
import uuid
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from dataclasses import dataclass
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
from nla_gateway.api.fields import as_list, check_pairs, field_names, parse_vectors
from nla_gateway.api.http import error_detail
from nla_gateway.api.outbox import Outbox, Place
from nla_gateway.engines.concurrency import Owner, gather, map_in_slices
from nla_gateway.errors import InvalidRequest, PayloadTooLarge
from nla_gateway.gateway import Gateway
from nla_gateway.pair.injection import Injection
from nla_gateway.pair.reconstructor import Reconstructor
from nla_gateway.pair.verbalizer import Generated, Ticket, Verbalizer, ticket

T = TypeVar("T")


@dataclass(frozen=True)
class VerbalizeJob:
    """One `/verbalize` request: every sample of every vector runs at the same time."""

    gateway: Gateway
    call: VerbalizeRequest
    request_id: str
    verbalizer: Verbalizer
    reconstructor: Reconstructor | None
    """What scores the texts, where scores are wanted."""
    vectors: list[NDArray[np.float32]]
    """The call's, decoded, each [d_model]."""
    injected: list[Injection]
    """The same, as the engine takes them."""
    owner: Owner
    seed: int

    @classmethod
    async def prepare(cls, gateway: Gateway, call: VerbalizeRequest, request_id: str) -> Self:
        """Check the request and decode its vectors.

        Raises:
            RequestError: it is wrong, or its engines are not ready.
        """
        count = len(as_list(call.vectors))
        if "max_tokens" not in call.model_fields_set:
            call = call.model_copy(update={"max_tokens": min(call.max_tokens, gateway.limits.max_tokens)})
        check_batch(gateway, count, "vectors")
        check_sampling(gateway, call, count)
        verbalizer = gateway.verbalizer()
        reconstructor = gateway.reconstructor() if call.score else None
        if reconstructor is not None:
            reconstructor.require_scorable("score")
        vectors = await parse_vectors(call.vectors, call.dtype, verbalizer.description.d_model)
        named = zip(vectors, field_names("vectors", call.vectors), strict=True)
        return cls(
            gateway=gateway,
            call=call,
            request_id=request_id,
            verbalizer=verbalizer,
            reconstructor=reconstructor,
            vectors=vectors,
            injected=await map_in_slices(lambda item: verbalizer.inject(*item), named),
            owner=owner_of(request_id, count * call.n),
            seed=secrets.randbelow(2**31) if call.seed is None else call.seed,
        )

    @property
    def places(self) -> list[Place]:
        """Every sample of every vector, in the order of the answer."""
        return [(index, sample) for index in range(len(self.vectors)) for sample in range(self.call.n)]

    async def run(self) -> VerbalizeResponse:
        """Answer in one piece; the first failure ends the whole request."""
        places = self.places
        with self.gateway.admission.admit(len(places)):
            done = await within(self.gateway, gather(self._sample(*place) for place in places))
        self.gateway.metrics.vectors("/verbalize", len(self.vectors))
        n = self.call.n
        results = [
            VerbalizeResult(index=i, samples=[sample for sample, _ in done[i * n : (i + 1) * n]])
            for i in range(len(self.vectors))
        ]
        usage = add_usage([part for _, part in done])
        return VerbalizeResponse(model=self.verbalizer.settings.model, results=results, usage=usage)

    async def events(self) -> AsyncGenerator[StreamEvent, None]:
        """Answer piece by piece; a sample that fails says so and leaves the others alone."""
        places = self.places
        with self.gateway.admission.admit(len(places)):
            outbox, used = Outbox(), list[Usage]()
            tasks = [asyncio.create_task(self._stream_sample(*place, outbox, used)) for place in places]
            try:
                running = len(tasks)
                while running:
                    event = await outbox.get()
                    running -= not isinstance(event, SampleDelta)
                    yield event
                self.gateway.metrics.vectors("/verbalize", len(self.vectors))
                yield StreamDone(usage=add_usage(used))
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _sample(self, index: int, sample: int) -> tuple[Sample, Usage]:
        generated = await self.verbalizer.sample(self.injected[index], self.call, self._ticket(index, sample))
        return await self._finished(index, generated), generated.usage

    async def _stream_sample(self, index: int, sample: int, outbox: Outbox, used: list[Usage]) -> None:
        """Put one sample's deltas into the outbox, and exactly one SampleDone or SampleError after them."""
        try:
            async with self.gateway.deadlines.within():
                stream = self.verbalizer.stream(self.injected[index], self.call, self._ticket(index, sample))
                async with aclosing(stream) as pieces:
                    async for piece in pieces:
                        if isinstance(piece, str):
                            outbox.add((index, sample), piece)
                        else:
                            used.append(piece.usage)
                            done = await self._finished(index, piece)
                            outbox.end(SampleDone(index=index, sample=sample, **dict(done)))
        except Exception as error:  # whatever it was, the stream goes on and says so
            detail = error_detail(error, self.request_id)
            outbox.end(SampleError(index=index, sample=sample, error=detail))

    async def _finished(self, index: int, generated: Generated) -> Sample:
        self.gateway.metrics.sample(complete=generated.complete)
        self.gateway.metrics.tokens("verbalizer", generated.usage)
        return Sample(
            text=generated.text,
            complete=generated.complete,
            finish_reason=generated.finish_reason,
            score=await self._score(generated.text, self.vectors[index]),
        )

    async def _score(self, text: str, vector: NDArray[np.float32]) -> Score | None:
        if self.reconstructor is None:
            return None
        try:
            scores, usage = await self.reconstructor.score([text], [vector], [None], self.owner)
        except InvalidRequest:
            return None  # a text that the reconstructor cannot take, too long say: no fault of the caller's
        self.gateway.metrics.tokens("reconstructor", usage)
        self.gateway.metrics.scores(scores)
        return scores[0]

    def _ticket(self, index: int, sample: int) -> Ticket:
        return ticket(self.owner, self.seed, index, sample)


def owner_of(request_id: str, items: int) -> Owner:
    """Name a request within the gateway and the engines.

    Callers may use one request id twice, and none of theirs may begin an engine's: SGLang takes some for its own.
    """
    return Owner(f"nla.{uuid.uuid4().hex[:8]}.{request_id}", items)


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


def check_sampling(gateway: Gateway, call: VerbalizeRequest, vectors: int) -> None:
    """Raise InvalidRequest or PayloadTooLarge for more, or longer, samples than may be asked for."""
    limits = gateway.limits
    if call.n > limits.max_n:
        raise InvalidRequest(f"n is {call.n}; at most {limits.max_n} samples a vector", param="n")
    if call.max_tokens > limits.max_tokens:
        message = f"max_tokens is {call.max_tokens}; at most {limits.max_tokens} fit"
        raise InvalidRequest(message, param="max_tokens")
    if vectors * call.n > limits.max_samples:
        message = f"{vectors} vectors times n = {call.n} is over {limits.max_samples} samples a request"
        raise PayloadTooLarge(message, param="vectors")


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
        d_model=reconstructor.description.d_model,
        vectors=encoded,
        usage=usage,
    )


async def critic(gateway: Gateway, call: CriticRequest, request_id: str) -> CriticResponse:
    """Answer `/critic`, pair by pair."""
    texts = as_list(call.texts)
    check_batch(gateway, len(texts), "texts")
    check_pairs(texts, as_list(call.vectors))
    reconstructor = gateway.reconstructor()
    reconstructor.require_scorable(None)
    d_model = reconstructor.description.d_model
    vectors = await parse_vectors(call.vectors, call.dtype, d_model)
    with gateway.admission.admit(len(texts)):
        work = reconstructor.score(texts, vectors, field_names("texts", call.texts), owner_of(request_id, len(texts)))
        scores, usage = await within(gateway, work)
    gateway.metrics.tokens("reconstructor", usage)
    gateway.metrics.vectors("/critic", len(scores))
    gateway.metrics.scores(scores)
    results = [CriticResult(index=index, **dict(values)) for index, values in enumerate(scores)]
    return CriticResponse(model=reconstructor.settings.model, results=results, usage=usage)
