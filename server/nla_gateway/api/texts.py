"""The calls that take texts for the source model: tokens, vectors at positions, and their explanations."""

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
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
from nla_gateway.api.http import error_detail
from nla_gateway.api.sampling import Prepared, SampleEvent, Sampling, check_samples, prepare_call
from nla_gateway.api.work import check_batch, owner_of, within
from nla_gateway.engines.concurrency import Owner
from nla_gateway.errors import PayloadTooLarge
from nla_gateway.pair.given import GivenText, given_texts
from nla_gateway.pair.positions import choices, choose, names, remark
from nla_gateway.pair.source import MOST_TOKENIZED, USUAL_TOKENS, Source, norms
from nla_gateway.pair.texts import SourceText
from nla_gateway.served import ServedPair

K = TypeVar("K", bound=Token)

MOST_TOGETHER: Final = 4 * MOST_TOKENIZED
"""Tokens of one `/tokenize`: what is told of each takes a kilobyte."""
ROWS_AT_A_TIME: Final = 64
"""Encoded before the event loop gets on with other things."""


@dataclass(frozen=True)
class Passage:
    """One text, and where it is to be read."""

    text: str
    """As rendered."""
    ids: list[int]
    chosen: list[int]
    """Positions, ascending."""
    tokens: list[Token]
    """Those of the positions, or, where they are wanted, all."""

    @classmethod
    def of(cls, text: SourceText, chosen: list[int], *, whole: bool) -> Self:
        """Keep what is needed of a text: its tokens take a hundred times as much as their ids."""
        return cls(text.text, text.ids, chosen, text.tokens if whole else [text.tokens[place] for place in chosen])

    @property
    def read(self) -> list[Token]:
        """The tokens of the positions."""
        whole = len(self.tokens) == len(self.ids)
        return [self.tokens[place] for place in self.chosen] if whole else self.tokens


@dataclass(frozen=True)
class Places:
    """Texts, and where they are to be read."""

    source: Source
    passages: list[Passage]

    @classmethod
    async def of(
        cls, pair: ServedPair, call: PositionsRequest, given: Sequence[GivenText], *, whole: bool = False
    ) -> Self:
        """Tokenize a request's texts and choose their positions.

        Args:
            pair: of the source.
            call: the request.
            given: its texts.
            whole: whether all tokens are wanted, not only those of the positions.

        Raises:
            RequestError: it is wrong, or the source is not ready.
        """
        places, count, most = cls(pair.source(), []), len(given), pair.limits.max_positions
        wanted, params = choices(call.positions, count), names(call.positions, count)
        longest = max(len(choice) if isinstance(choice, list) else 1 for choice in wanted)
        # A lone text may be read everywhere, if its model takes it.
        most = most if count > 1 else max(most, places.source.max_tokens)
        if longest > most:  # before they are looked at for each text
            raise _too_many(longest, most)
        same = count > 1 and params[0] == params[1]  # then it does not say which text is meant
        chosen = zip(wanted, params, [one.param if same else "the text" for one in given], strict=True)
        async with aclosing(places.source.tokenize(given, places.source.max_tokens)) as texts:
            async for text in texts:
                choice, param, name = next(chosen)
                places.passages.append(Passage.of(text, choose(choice, text, param, name), whole=whole))
                if places.count > most:
                    raise _too_many(places.count, most)
        return places

    @property
    def count(self) -> int:
        """Positions in all."""
        return sum(len(passage.chosen) for passage in self.passages)

    @property
    def work(self) -> int:
        """How much reading it is, in texts of usual length."""
        return max(len(self.passages), sum(len(passage.ids) for passage in self.passages) // USUAL_TOKENS)

    async def read(self, owner: Owner) -> tuple[list[NDArray[np.float32]], Usage]:
        """Read float32 vectors [n, d_model] of each text; a long one is much work however few its positions are."""
        ids, chosen = ([getattr(passage, name) for passage in self.passages] for name in ("ids", "chosen"))
        return await self.source.read(ids, chosen, replace(owner, items=max(owner.items, self.work)))

    def tokens(self, index: int, rows: NDArray[np.float32]) -> list[ReadToken]:
        """Form the chosen tokens of a text with what its vectors [n, d_model] say of them."""
        passage, typical = self.passages[index], self.source.typical_norm
        return [
            _with(token, ReadToken, norm=norm, remark=remark(token, norm, typical))
            for token, norm in zip(passage.read, norms(rows).tolist(), strict=True)
        ]


async def tokenize(pair: ServedPair, call: TokenizeRequest) -> TokenizeResponse:
    """Answer `/tokenize`."""
    given, source = texts_of(pair, call), pair.tokenizer()

    with pair.admission.admit(len(given)):
        texts = await within(pair, _taken_apart(source, given))
    results = [TokenizedText(index=index, text=one.text, tokens=one.tokens) for index, one in enumerate(texts)]
    return TokenizeResponse(model=source.settings.model, results=results)


async def _taken_apart(source: Source, given: Sequence[GivenText]) -> list[SourceText]:
    texts, count = list[SourceText](), 0
    most = max(MOST_TOKENIZED, 2 * source.max_tokens)  # so that texts can be cut to any context
    async with aclosing(source.tokenize(given, most)) as read:
        async for text in read:
            texts.append(text)
            count += len(text.tokens)
            if count > MOST_TOGETHER:
                message = f"the texts have more than {MOST_TOGETHER} tokens together: send fewer at a time"
                raise PayloadTooLarge(message, param=given[0].param.partition("[")[0])
    return texts


async def extract(pair: ServedPair, call: ExtractRequest, request_id: str) -> ExtractResponse:
    """Answer `/extract`."""
    given = texts_of(pair, call)

    async def work() -> tuple[Places, list[NDArray[np.float32]], Usage]:
        places = await Places.of(pair, call, given)
        return places, *await places.read(owner_of(request_id, places.work))

    with pair.admission.admit(len(given)):
        places, vectors, usage = await within(pair, work())
    pair.metrics.vectors("/extract", places.count)
    results = [
        ExtractResult(
            index=index,
            text=passage.text,
            tokens=await _extracted(places.tokens(index, rows), rows, call.dtype),
        )
        for index, (passage, rows) in enumerate(zip(places.passages, vectors, strict=True))
    ]
    return ExtractResponse(
        model=places.source.settings.model,
        layer=places.source.layer,
        d_model=places.source.description.d_model,
        dtype=call.dtype,
        results=results,
        usage=usage,
    )


def _too_many(positions: int, most: int) -> PayloadTooLarge:
    message = f"{positions} positions in one request; at most {most}: choose fewer, or send several requests"
    return PayloadTooLarge(message, param="positions")


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
    """One `/explain` request: vectors go from the source to the verbalizer within the pair."""

    pair: ServedPair
    prepared: Prepared
    places: Places
    request_id: str
    owner: Owner

    @classmethod
    async def prepare(cls, pair: ServedPair, call: ExplainRequest, request_id: str) -> Self:
        """Check the request and tokenize its texts.

        Raises:
            RequestError: it is wrong, or its engines are not ready.
        """
        prepared, given = prepare_call(pair, call), texts_of(pair, call)
        with pair.admission.admit(len(given)):
            places = await within(pair, Places.of(pair, call, given, whole=call.stream))
        check_samples(pair, call, places.count, "positions")
        return cls(pair, prepared, places, request_id, owner_of(request_id, places.count * call.n))

    async def run(self) -> ExplainResponse:
        """Answer in one piece; the first failure ends the whole request."""
        with self.pair.admission.admit(self._count):
            vectors, read, samples, sampled = await within(self.pair, self._work())
        self.pair.metrics.vectors("/explain", self.places.count)
        given = iter(samples)
        results = [
            ExplainResult(
                index=index,
                text=passage.text,
                tokens=[_with(token, ExplainedToken, samples=next(given)) for token in self.places.tokens(index, rows)],
            )
            for index, (passage, rows) in enumerate(zip(self.places.passages, vectors, strict=True))
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
        with self.pair.admission.admit(self._count):
            vectors, read = await within(self.pair, self.places.read(self.owner))
            sampling = await self._sampling(vectors)
            for index, rows in enumerate(vectors):
                yield self._tokens(index, rows)
            where = self._where
            async with aclosing(sampling.events()) as events:
                async for event in events:
                    yield _placed(event, *where[event.index])
            self.pair.metrics.vectors("/explain", self.places.count)
            yield StreamDone(usage=add_usage([read, *sampling.used]))

    def lost(self, error: Exception) -> Iterator[ExplainEvent]:
        """Answer so where the texts could not be read, and their caller waits for events already."""
        detail = error_detail(error, self.request_id)
        for index, position in self._where:
            for sample in range(self.prepared.call.n):
                yield PositionError(index=index, position=position, sample=sample, error=detail)
        yield StreamDone(usage=add_usage([]))

    @property
    def _count(self) -> int:
        return self.places.count * self.prepared.call.n

    @property
    def _where(self) -> list[tuple[int, int]]:
        """Text and position of each vector."""
        return [(index, place) for index, passage in enumerate(self.places.passages) for place in passage.chosen]

    async def _work(self) -> tuple[list[NDArray[np.float32]], Usage, list[list[Sample]], Usage]:
        vectors, read = await self.places.read(self.owner)
        samples, sampled = await (await self._sampling(vectors)).run()
        return vectors, read, samples, sampled

    async def _sampling(self, vectors: list[NDArray[np.float32]]) -> Sampling:
        flat = [row for rows in vectors for row in rows]
        return await Sampling.of(self.prepared, flat, ["positions"] * len(flat), self.owner, self.request_id)

    def _tokens(self, index: int, rows: NDArray[np.float32]) -> TextTokens:
        passage, read = self.places.passages[index], {one.position: one for one in self.places.tokens(index, rows)}
        tokens: list[ReadToken | Token] = [read.get(token.position, token) for token in passage.tokens]
        return TextTokens(index=index, text=passage.text, tokens=tokens)


def texts_of(pair: ServedPair, call: TextRequest) -> list[GivenText]:
    """Take a request's texts, none of them read yet.

    Raises:
        InvalidRequest: it has none, or texts in several forms.
        PayloadTooLarge: there are too many.
    """
    given = given_texts(call)
    check_batch(pair, len(given), given[0].param.partition("[")[0])
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
