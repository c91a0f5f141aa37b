"""The calls that take vectors, from parsed request to answer. HTTP stays outside, SGLang's wire stays below."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Self

from nla_client.wire import (
    CriticRequest,
    CriticResponse,
    CriticResult,
    ReconstructRequest,
    ReconstructResponse,
    StreamDone,
    StreamEvent,
    VerbalizeRequest,
    VerbalizeResponse,
    VerbalizeResult,
    add_usage,
    encode_vector,
)
from nla_gateway.api.fields import as_list, check_pairs, field_names, parse_vectors
from nla_gateway.api.sampling import Sampling, prepare_call
from nla_gateway.api.work import check_batch, owner_of, within
from nla_gateway.engines.concurrency import map_in_slices
from nla_gateway.served import ServedPair


@dataclass(frozen=True)
class VerbalizeJob:
    """One `/verbalize` request: every sample of every vector runs at the same time."""

    pair: ServedPair
    sampling: Sampling

    @classmethod
    async def prepare(cls, pair: ServedPair, call: VerbalizeRequest, request_id: str) -> Self:
        """Check the request and decode its vectors.

        Raises:
            RequestError: it is wrong, or its engines are not ready.
        """
        count = len(as_list(call.vectors))
        check_batch(pair, count, "vectors")
        prepared = prepare_call(pair, call, count, "vectors")
        vectors = await parse_vectors(call.vectors, call.dtype, prepared.verbalizer.description.d_model)
        names = field_names("vectors", call.vectors)
        owner = owner_of(request_id, count * call.n)
        return cls(pair, await Sampling.of(prepared, vectors, names, owner, request_id))

    async def run(self) -> VerbalizeResponse:
        """Answer in one piece; the first failure ends the whole request."""
        with self.pair.admission.admit(self.sampling.count):
            samples, usage = await within(self.pair, self.sampling.run())
        self.pair.metrics.vectors("/verbalize", len(samples))
        results = [VerbalizeResult(index=index, samples=own) for index, own in enumerate(samples)]
        return VerbalizeResponse(model=self.sampling.model, results=results, usage=usage)

    async def events(self) -> AsyncGenerator[StreamEvent, None]:
        """Answer piece by piece; a sample that fails says so and leaves the others alone."""
        with self.pair.admission.admit(self.sampling.count):
            async with aclosing(self.sampling.events()) as events:
                async for event in events:
                    yield event
            self.pair.metrics.vectors("/verbalize", len(self.sampling.vectors))
            yield StreamDone(usage=add_usage(self.sampling.used))


async def reconstruct(pair: ServedPair, call: ReconstructRequest, request_id: str) -> ReconstructResponse:
    """Answer `/reconstruct`."""
    texts = as_list(call.texts)
    check_batch(pair, len(texts), "texts")
    reconstructor = pair.reconstructor()
    with pair.admission.admit(len(texts)):
        work = reconstructor.reconstruct(texts, field_names("texts", call.texts), owner_of(request_id, len(texts)))
        vectors, usage = await within(pair, work)
    pair.metrics.vectors("/reconstruct", len(vectors))
    encoded = await map_in_slices(lambda vector: encode_vector(vector, call.dtype), vectors)
    return ReconstructResponse(
        model=reconstructor.settings.model,
        dtype=call.dtype,
        d_model=reconstructor.description.d_model,
        vectors=encoded,
        usage=usage,
    )


async def critic(pair: ServedPair, call: CriticRequest, request_id: str) -> CriticResponse:
    """Answer `/critic`, pair by pair."""
    texts = as_list(call.texts)
    check_batch(pair, len(texts), "texts")
    check_pairs(texts, as_list(call.vectors))
    reconstructor = pair.reconstructor()
    reconstructor.require_scorable(None)
    d_model = reconstructor.description.d_model
    vectors = await parse_vectors(call.vectors, call.dtype, d_model)
    with pair.admission.admit(len(texts)):
        work = reconstructor.score(texts, vectors, field_names("texts", call.texts), owner_of(request_id, len(texts)))
        scores, usage = await within(pair, work)
    pair.metrics.vectors("/critic", len(scores))
    pair.metrics.scores(scores)
    results = [CriticResult(index=index, **dict(values)) for index, values in enumerate(scores)]
    return CriticResponse(model=reconstructor.settings.model, results=results, usage=usage)
