"""The calls that take texts for the source model: tokens, vectors at positions, and their explanations."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from nla_client.wire import (
    ExplainedToken,
    ExplainEvent,
    ExplainRequest,
    ExplainResponse,
    ExplainResult,
    ExtractedToken,
    ExtractRequest,
    ExtractResponse,
    ExtractResult,
    PositionDelta,
    PositionDone,
    PositionError,
    PositionsRequest,
    ReadToken,
    Sample,
    SampleDelta,
    SampleDone,
    StreamDone,
    TextRequest,
    TextTokens,
    Token,
    TokenizedText,
    TokenizeRequest,
    TokenizeResponse,
    Usage,
    VectorDType,
    add_usage,
    encode_rows,
)
from nla_gateway.api.sampling import Prepared, SampleEvent, Sampling, check_samples, prepare_call
from nla_gateway.api.work import check_batch, owner_of, within
from nla_gateway.engines.concurrency import Owner
from nla_gateway.errors import PayloadTooLarge
from nla_gateway.gateway import Gateway
from nla_gateway.pair.given import GivenText, given_texts
from nla_gateway.pair.positions import choices, choose, names, remark
from nla_gateway.pair.source import Source, norms
from nla_gateway.pair.texts import SourceText

K = TypeVar("K", bound=Token)

ROWS_AT_A_TIME: Final = 64
"""Encoded before the event loop gets on with other things."""


@dataclass(frozen=True)
class Places:
    """Texts, and where they are to be read."""

    source: Source
    texts: list[SourceText]
    chosen: list[list[int]]
    """Positions of each text, ascending."""

    @classmethod
    async def of(cls, gateway: Gateway, call: PositionsRequest) -> Self:
        """Tokenize a request's texts and choose their positions.

        Raises:
            RequestError: it is wrong, or the source is not ready.
        """
        given = texts_of(gateway, call)
        source, count = gateway.source(), len(given)
        wanted, params = choices(call.positions, count), names(call.positions, count)
        texts = await source.tokenize(given)
        for text, one in zip(texts, given, strict=True):
            source.check_length(text, one.param)
        chosen = [choose(*one) for one in zip(wanted, texts, params, strict=True)]
        places, most = cls(source, texts, chosen), gateway.limits.max_positions
        if places.count > most:
            message = f"{places.count} positions in one request; at most {most}: choose fewer, or send several requests"
            raise PayloadTooLarge(message, param="positions")
        return places

    @property
    def count(self) -> int:
        """Positions in all."""
        return sum(map(len, self.chosen))

    async def read(self, gateway: Gateway, owner: Owner) -> tuple[list[NDArray[np.float32]], Usage]:
        """Read float32 vectors [n, d_model] of each text."""
        vectors, usage = await self.source.read(self.texts, self.chosen, owner)
        gateway.metrics.tokens("source", usage)
        return vectors, usage

    def tokens(self, index: int, rows: NDArray[np.float32]) -> list[ReadToken]:
        """Form the chosen tokens of a text with what its vectors [n, d_model] say of them."""
        text, typical = self.texts[index], self.source.typical_norm
        return [
            _with(token, ReadToken, norm=norm, remark=remark(token, norm, typical))
            for token, norm in zip(map(text.tokens.__getitem__, self.chosen[index]), norms(rows).tolist(), strict=True)
        ]


async def tokenize(gateway: Gateway, call: TokenizeRequest) -> TokenizeResponse:
    """Answer `/tokenize`."""
    given, source = texts_of(gateway, call), gateway.tokenizer()
    texts = await source.tokenize(given)
    results = [TokenizedText(index=index, text=one.text, tokens=one.tokens) for index, one in enumerate(texts)]
    return TokenizeResponse(model=source.settings.model, results=results)


async def extract(gateway: Gateway, call: ExtractRequest, request_id: str) -> ExtractResponse:
    """Answer `/extract`."""
    places = await Places.of(gateway, call)
    count = len(places.texts)
    with gateway.admission.admit(count):
        vectors, usage = await within(gateway, places.read(gateway, owner_of(request_id, count)))
    gateway.metrics.vectors("/extract", places.count)
    results = [
        ExtractResult(
            index=index,
            text=text.text,
            tokens=await _extracted(places.tokens(index, rows), rows, call.dtype),
        )
        for index, (text, rows) in enumerate(zip(places.texts, vectors, strict=True))
    ]
    return ExtractResponse(
        model=places.source.settings.model,
        layer=places.source.layer,
        d_model=places.source.description.d_model,
        dtype=call.dtype,
        results=results,
        usage=usage,
    )


async def _extracted(tokens: list[ReadToken], rows: NDArray[np.float32], dtype: VectorDType) -> list[ExtractedToken]:
    """Add to tokens their vectors, rows [n, d_model]; the event loop gets on with other things every few rows."""
    vectors = list[str]()
    for start in range(0, len(rows), ROWS_AT_A_TIME):
        vectors += encode_rows(rows[start : start + ROWS_AT_A_TIME], dtype)
        await asyncio.sleep(0)
    pairs = zip(tokens, vectors, strict=True)
    return [_with(token, ExtractedToken, vector=vector) for token, vector in pairs]


@dataclass(frozen=True)
class ExplainJob:
    """One `/explain` request: vectors go from the source to the verbalizer within the gateway."""

    gateway: Gateway
    prepared: Prepared
    places: Places
    request_id: str
    owner: Owner

    @classmethod
    async def prepare(cls, gateway: Gateway, call: ExplainRequest, request_id: str) -> Self:
        """Check the request and tokenize its texts.

        Raises:
            RequestError: it is wrong, or its engines are not ready.
        """
        prepared = prepare_call(gateway, call)
        places = await Places.of(gateway, call)
        check_samples(gateway, call, places.count, "positions")
        return cls(gateway, prepared, places, request_id, owner_of(request_id, places.count * call.n))

    async def run(self) -> ExplainResponse:
        """Answer in one piece; the first failure ends the whole request."""
        with self.gateway.admission.admit(self._count):
            vectors, read, samples, sampled = await within(self.gateway, self._work())
        self.gateway.metrics.vectors("/explain", self.places.count)
        given = iter(samples)
        results = [
            ExplainResult(
                index=index,
                text=text.text,
                tokens=[_with(token, ExplainedToken, samples=next(given)) for token in self.places.tokens(index, rows)],
            )
            for index, (text, rows) in enumerate(zip(self.places.texts, vectors, strict=True))
        ]
        return ExplainResponse(
            model=self.prepared.verbalizer.settings.model,
            source=self.places.source.settings.model,
            layer=self.places.source.layer,
            results=results,
            usage=add_usage([read, sampled]),
        )

    async def events(self) -> AsyncGenerator[ExplainEvent, None]:
        """Answer piece by piece: the tokens of each text, then samples of all positions at the same time."""
        with self.gateway.admission.admit(self._count):
            vectors, read = await within(self.gateway, self.places.read(self.gateway, self.owner))
            sampling = await self._sampling(vectors)
            for index, rows in enumerate(vectors):
                yield self._tokens(index, rows)
            where = [(index, position) for index, chosen in enumerate(self.places.chosen) for position in chosen]
            async with aclosing(sampling.events()) as events:
                async for event in events:
                    yield _placed(event, *where[event.index])
            self.gateway.metrics.vectors("/explain", self.places.count)
            yield StreamDone(usage=add_usage([read, *sampling.used]))

    @property
    def _count(self) -> int:
        return self.places.count * self.prepared.call.n

    async def _work(self) -> tuple[list[NDArray[np.float32]], Usage, list[list[Sample]], Usage]:
        vectors, read = await self.places.read(self.gateway, self.owner)
        samples, sampled = await (await self._sampling(vectors)).run()
        return vectors, read, samples, sampled

    async def _sampling(self, vectors: list[NDArray[np.float32]]) -> Sampling:
        flat = [row for rows in vectors for row in rows]
        return await Sampling.of(self.prepared, flat, ["positions"] * len(flat), self.owner, self.request_id)

    def _tokens(self, index: int, rows: NDArray[np.float32]) -> TextTokens:
        text, read = self.places.texts[index], {token.position: token for token in self.places.tokens(index, rows)}
        tokens: list[ReadToken | Token] = [read.get(token.position, token) for token in text.tokens]
        return TextTokens(index=index, text=text.text, tokens=tokens)


def texts_of(gateway: Gateway, call: TextRequest) -> list[GivenText]:
    """Take a request's texts, none of them read yet.

    Raises:
        InvalidRequest: it has none, or texts in several forms.
        PayloadTooLarge: there are too many.
    """
    given = given_texts(call)
    check_batch(gateway, len(given), given[0].param.partition("[")[0])
    return given


def _with(token: Token, kind: type[K], **more: Any) -> K:
    """Form a token that says more of itself; not validated, for there may be thousands."""
    return kind.model_construct(**token.__dict__, **more)


def _placed(event: SampleEvent, index: int, position: int) -> ExplainEvent:
    """Name a sample's text and position in the place of the vector's number."""
    own = dict(event) | {"index": index, "position": position}
    if isinstance(event, SampleDelta):
        return PositionDelta(**own)
    return PositionDone(**own) if isinstance(event, SampleDone) else PositionError(**own)
