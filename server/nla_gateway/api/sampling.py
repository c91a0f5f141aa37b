"""From vectors to samples, for all calls that describe vectors: every sample of every vector runs at the same time."""

import asyncio
import secrets
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.typing import NDArray

from nla_client.wire import Sample, SampleDelta, SampleDone, SampleError, SamplingRequest, Score, Usage, add_usage
from nla_gateway.api.http import error_detail
from nla_gateway.api.outbox import Outbox, Place
from nla_gateway.engines.concurrency import Owner, gather, map_in_slices
from nla_gateway.errors import InvalidRequest, PayloadTooLarge
from nla_gateway.pair.injection import Injection
from nla_gateway.pair.reconstructor import Reconstructor
from nla_gateway.pair.verbalizer import Generated, Ticket, Verbalizer, ticket
from nla_gateway.served import ServedPair

SampleEvent = SampleDelta | SampleDone | SampleError


@dataclass(frozen=True)
class Prepared:
    """A call that has been checked, and what serves it."""

    pair: ServedPair
    call: SamplingRequest
    verbalizer: Verbalizer
    reconstructor: Reconstructor | None
    """What scores the texts, where scores are wanted."""


def prepare_call(pair: ServedPair, call: SamplingRequest, vectors: int = 0, param: str = "vectors") -> Prepared:
    """Check how samples are asked for, of so many vectors where their number is known.

    Raises:
        RequestError: it is wrong, or the engines are not ready.
    """
    if "max_tokens" not in call.model_fields_set:
        call = call.model_copy(update={"max_tokens": min(call.max_tokens, pair.limits.max_tokens)})
    check_sampling(pair, call)
    check_samples(pair, call, vectors, param)
    verbalizer = pair.verbalizer()
    reconstructor = pair.reconstructor() if call.score else None
    if reconstructor is not None:
        reconstructor.require_scorable("score")
    return Prepared(pair, call, verbalizer, reconstructor)


def check_sampling(pair: ServedPair, call: SamplingRequest) -> None:
    """Raise InvalidRequest for more, or longer, samples of a vector than may be asked for."""
    limits = pair.limits
    if call.n > limits.max_n:
        raise InvalidRequest(f"n is {call.n}; at most {limits.max_n} samples a vector", param="n")
    if call.max_tokens > limits.max_tokens:
        message = f"max_tokens is {call.max_tokens}; at most {limits.max_tokens} fit"
        raise InvalidRequest(message, param="max_tokens")


def check_samples(pair: ServedPair, call: SamplingRequest, vectors: int, param: str) -> None:
    """Raise PayloadTooLarge for more samples than a request may have."""
    most = pair.limits.max_samples
    if vectors * call.n > most:
        message = f"{vectors} {param} times n = {call.n} is over {most} samples a request"
        raise PayloadTooLarge(message, param=param)


@dataclass(frozen=True)
class Sampling:
    """The samples of one request."""

    prepared: Prepared
    request_id: str
    vectors: list[NDArray[np.float32]]
    """Each [d_model]."""
    injected: list[Injection]
    """The same, as the engine takes them."""
    owner: Owner
    seed: int
    used: list[Usage] = field(default_factory=list)
    """Of each sample that is done."""

    @classmethod
    async def of(
        cls,
        prepared: Prepared,
        vectors: list[NDArray[np.float32]],
        params: Sequence[str],
        owner: Owner,
        request_id: str,
    ) -> Self:
        """Form the samples of vectors [d_model].

        Args:
            prepared: how they are asked for.
            vectors: what they describe.
            params: for each, the request's field that an error should name.
            owner: the request; its samples wait in one line.
            request_id: the caller's.

        Raises:
            InvalidRequest: a vector overflows the engine's dtype.
        """
        seed, named = prepared.call.seed, zip(vectors, params, strict=True)
        return cls(
            prepared=prepared,
            request_id=request_id,
            vectors=vectors,
            injected=await map_in_slices(lambda item: prepared.verbalizer.inject(*item), named),
            owner=owner,
            seed=secrets.randbelow(2**31) if seed is None else seed,
        )

    @property
    def model(self) -> str:
        """The verbalizer's name."""
        return self.prepared.verbalizer.settings.model

    @property
    def count(self) -> int:
        """How many samples there are."""
        return len(self.vectors) * self.prepared.call.n

    async def run(self) -> tuple[list[list[Sample]], Usage]:
        """Sample all, in the order of the vectors; the first failure ends the rest."""
        done, n = await gather(self._sample(*place) for place in self._places()), self.prepared.call.n
        usage = add_usage([part for _, part in done])
        return [[sample for sample, _ in done[i * n : (i + 1) * n]] for i in range(len(self.vectors))], usage

    async def events(self) -> AsyncGenerator[SampleEvent, None]:
        """Sample all, piece by piece; a sample that fails says so and leaves the others alone."""
        outbox = Outbox()
        tasks = [asyncio.create_task(self._stream_sample(*place, outbox)) for place in self._places()]
        try:
            running = len(tasks)
            while running:
                event = await outbox.get()
                running -= not isinstance(event, SampleDelta)
                yield event
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _places(self) -> list[Place]:
        """Every sample of every vector, in the order of the answer."""
        return [(index, sample) for index in range(len(self.vectors)) for sample in range(self.prepared.call.n)]

    async def _sample(self, index: int, sample: int) -> tuple[Sample, Usage]:
        verbalizer, call = self.prepared.verbalizer, self.prepared.call
        generated = await verbalizer.sample(self.injected[index], call, self._ticket(index, sample))
        return await self._finished(index, generated), generated.usage

    async def _stream_sample(self, index: int, sample: int, outbox: Outbox) -> None:
        """Put one sample's deltas into the outbox, and exactly one SampleDone or SampleError after them."""
        verbalizer, call = self.prepared.verbalizer, self.prepared.call
        try:
            async with self.prepared.pair.deadlines.within():
                stream = verbalizer.stream(self.injected[index], call, self._ticket(index, sample))
                async with aclosing(stream) as pieces:
                    async for piece in pieces:
                        if isinstance(piece, str):
                            outbox.add((index, sample), piece)
                        else:
                            self.used.append(piece.usage)
                            done = await self._finished(index, piece)
                            outbox.end(SampleDone(index=index, sample=sample, **dict(done)))
        except Exception as error:  # whatever it was, the stream goes on and says so
            detail = error_detail(error, self.request_id)
            outbox.end(SampleError(index=index, sample=sample, error=detail))

    async def _finished(self, index: int, generated: Generated) -> Sample:
        metrics = self.prepared.pair.metrics
        metrics.sample(complete=generated.complete)
        return Sample(
            text=generated.text,
            complete=generated.complete,
            finish_reason=generated.finish_reason,
            score=await self._score(generated.text, self.vectors[index]),
        )

    async def _score(self, text: str, vector: NDArray[np.float32]) -> Score | None:
        reconstructor, metrics = self.prepared.reconstructor, self.prepared.pair.metrics
        if reconstructor is None:
            return None
        try:
            scores, _ = await reconstructor.score([text], [vector], [None], self.owner)
        except InvalidRequest:
            return None  # a text that the reconstructor cannot take, too long say: no fault of the caller's
        metrics.scores(scores)
        return scores[0]

    def _ticket(self, index: int, sample: int) -> Ticket:
        return ticket(self.owner, self.seed, index, sample)
