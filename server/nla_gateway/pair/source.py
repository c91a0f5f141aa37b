"""Text -> vectors: what is asked of the source engine, the model whose activations are explained."""

import asyncio
import logging
import uuid
from collections.abc import AsyncGenerator, Awaitable, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from nla_client.wire import TokenizeRequest, Usage
from nla_gateway.callers import exchange
from nla_gateway.description import Description
from nla_gateway.engines.calls import in_calls
from nla_gateway.engines.concurrency import Owner
from nla_gateway.engines.engine import Engine
from nla_gateway.engines.pool import EnginePool
from nla_gateway.errors import InvalidRequest
from nla_gateway.pair.given import GivenText, given_texts
from nla_gateway.pair.positions import FAR, FIRST
from nla_gateway.pair.texts import Limit, SourceText, SourceTokenizer
from nla_gateway.pair.tokenizing import Tokenizing
from nla_gateway.roles import Role
from nla_gateway.settings import EngineSettings

logger = logging.getLogger(__name__)

USUAL_TOKENS: Final = 512
"""Of a text."""
USUAL_CHARACTERS: Final = 4 * USUAL_TOKENS
FEW: Final = 160
"""Characters, or tokens, of a request that are tokenized before a thread would be told to: within milliseconds."""
MOST_TOKENIZED: Final = 2**17
"""Tokens of a text that is only taken apart, however long the model takes it."""


class Source:
    """The source's engines with their tokenizer."""

    role: ClassVar = Role.SOURCE

    def __init__(self, engines: EnginePool, settings: EngineSettings, *, expected_norm: float | None) -> None:
        self.engines = engines
        self.settings = settings
        self.description: Description = settings.described()
        folder = settings.tokenizer or settings.checkpoint
        self._tokenizer = SourceTokenizer.load(folder, trust_remote_code=settings.trust_remote_code)
        self._tokenizing = Tokenizing()
        self._longest_token = max(map(len, self._tokenizer.tokenizer.get_vocab()))
        self._ids: dict[tuple[str, ...], list[list[int]]] = {}
        self.typical_norm: float | None = None
        """Median norm of vectors at usual places, measured by the self-test."""
        self.warning: str | None = None
        """What the self-test found strange."""
        self._expected_norm = expected_norm

    @property
    def layer(self) -> int:
        """The block whose output is read."""
        return self.description.of_source().blocks - 1

    @property
    def max_tokens(self) -> int:
        """Tokens of a text, at most: as many as the context leaves, and as every engine has room for."""
        room = (one.capacity.longest_prompt for one in self.engines.engines if one.capacity is not None)
        return min([self.settings.context_length - 1, *room])

    @property
    def longest_text(self) -> int:
        """Characters of a text that is read, at most, whatever room its engines have."""
        return self.settings.context_length * self._longest_token

    @property
    def longest_taken_apart(self) -> int:
        """Characters of a text that is only taken apart, at most."""
        return max(MOST_TOKENIZED * self._longest_token, 2 * self.longest_text)

    async def tokenize(self, texts: Sequence[GivenText], most: int) -> AsyncGenerator[SourceText, None]:
        """Read a request's texts: a few words at once, else off the event loop, and few at a time, by turns.

        Args:
            texts: any number.
            most: tokens of each.

        Raises:
            InvalidRequest: one cannot be read, or is too long.
        """
        limit = self._limit(most)
        for text in texts:  # known to be too long before it takes seconds to tokenize
            if text.ids > most:
                raise limit.refusal(f"{text.ids} tokens", text.param)
            if text.characters > most * self._longest_token:
                raise limit.refusal(f"{text.characters} characters", text.param)
        tokenizer = replace(self._tokenizer, limit=limit)
        if _is_little(texts):
            for text in texts:
                yield text.read(tokenizer)
            return
        owner = Owner(uuid.uuid4().hex, _work(texts), exchange().caller)
        lengths = [text.characters or text.ids for text in texts]
        async with aclosing(self._tokenizing.read(owner, lambda text: text.read(tokenizer), texts, lengths)) as found:
            async for source_text in found:
                yield source_text

    def _limit(self, most: int) -> Limit:
        """Advise to change the context only where that is what texts are held to."""
        is_context = most == self.settings.context_length - 1
        more = ", or start the server with more by --source-context" if is_context else ""
        return Limit(most, f"shorten it{more}")

    async def ids_of(self, texts: tuple[str, ...]) -> list[list[int]]:
        """Tokenize texts as they are usually given; the same ones only once, for requests may keep others waiting."""
        if texts not in self._ids:
            given = given_texts(TokenizeRequest(texts=list(texts)))
            self._ids[texts] = [text.ids async for text in self.tokenize(given, MOST_TOKENIZED)]
        return self._ids[texts]

    def note_norm(self, typical: float) -> None:
        """Keep the norm that the self-test has found, and warn where it is not what the verbalizer was trained on."""
        self.typical_norm, self.warning = typical, None
        if self._expected_norm is None or 1 / FAR < typical / self._expected_norm < FAR:
            return
        self.warning = (
            f"vectors of {self.settings.model} at layer {self.layer} have norms about {typical:.3g}, but the pair's"
            f" injection_scale is {self._expected_norm:.3g}: explanations will be nonsense if it is another model,"
            " layer or dtype than the pair was trained on"
        )
        logger.warning("%s", self.warning)

    async def read(
        self, texts: Sequence[list[int]], positions: Sequence[list[int]], owner: Owner
    ) -> tuple[list[NDArray[np.float32]], Usage]:
        """Read float32 vectors [n, d_model] at positions of each text, in order.

        Args:
            texts: token ids, none too many.
            positions: of each, at least one, in ascending order.
            owner: the request; its texts wait in one line.

        Raises:
            InvalidRequest: a vector is not finite, or 0.
        """

        async def ask(part: slice) -> tuple[list[NDArray[np.float32]], Usage]:
            return await self._read(list(texts[part]), list(positions[part]), owner)

        vectors, usage = await in_calls(self.engines, owner, [len(ids) for ids in texts], ask)
        for index, (rows, where) in enumerate(zip(vectors, positions, strict=True)):
            await asyncio.to_thread(_check_rows, rows, where, index)
        return vectors, usage

    async def _read(
        self, batch: list[list[int]], positions: list[list[int]], owner: Owner
    ) -> tuple[list[NDArray[np.float32]], Usage]:
        def attempt(engine: Engine, number: int) -> Awaitable[tuple[list[NDArray[np.float32]], int]]:
            rid = f"{owner.name}.{uuid.uuid4().hex[:8]}."  # a request makes several calls
            return engine.read(batch, positions, rid)

        rows, tokens = await self.engines.run(attempt)
        return rows, self.engines.read(tokens, self.role)


def _is_little(texts: Sequence[GivenText]) -> bool:
    """Whether a request's texts take no time; a chat may, whatever it says, for its template renders it."""
    return sum(text.characters + text.ids for text in texts) <= FEW and not any(text.is_chat for text in texts)


def _work(texts: Sequence[GivenText]) -> int:
    """How much there is to read, in texts of usual length."""
    return max(len(texts), sum(it.characters // USUAL_CHARACTERS + it.ids // USUAL_TOKENS for it in texts))


def typical_norm(rows: NDArray[np.float32]) -> float:
    """Median norm of one text's vectors [n, d_model], those of its first tokens left out where there are others."""
    later = rows[FIRST:] if len(rows) > FIRST else rows
    return float(np.median(norms(later)))


def norms(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    """Norm of each vector [n] of rows [n, d_model]; in float64, where no square overflows."""
    lengths: NDArray[np.float64] = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64))
    return lengths


def _check_rows(rows: NDArray[np.float32], positions: list[int], index: int) -> None:
    usable = np.isfinite(rows).all(axis=1) & rows.any(axis=1)
    if not usable.all():
        place = positions[int(np.argmin(usable))]
        raise InvalidRequest(
            f"text {index}: the source model's output at position {place} is not finite, or all zero: choose others",
            param="positions",
        )
