"""What tasks have in common that begin with texts: which tokens are read, and how texts are sent.

A row of the input becomes one row of the output a position. Texts go to the source model in requests of like length,
and their rows come back in the order of the input.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Final, Self

import numpy as np

from nla_client import Extraction, Info, Tokenization
from nla_client.calls.texts import WHOLE_TEXTS
from nla_data.asking import passages
from nla_data.asking.base import MAX_ROWS, Fields
from nla_data.asking.passages import REQUEST_TOKENS, Passage, cut
from nla_data.asking.places import Choice, NoPlaceError
from nla_data.asking.text_rows import StoredDType
from nla_data.asking.work import Answers, Call, Work, ask
from nla_data.errors import UsageError
from nla_data.reading.source import Piece, Weigh

PIECE_ROWS: Final = 256
"""Texts among which those of like length are put together."""
FIRST_BYTES: Final = 2**16
"""Of a text that is to be cut, sent first; a longer one is in a request alone."""
MOST_BYTES: Final = 2**17 - 2**10
"""Of a text that `/tokenize` takes whatever they are: 2**17 tokens, of a byte at least, and a few that are added."""
LAST_TOKENS: Final = 256
"""Of a text's beginning, which may be others in the whole text, for words are cut."""


@dataclass(frozen=True)
class SourceTask(Fields):
    """What is done with texts."""

    reads_source: ClassVar[bool] = True
    yields: ClassVar[frozenset[str]] = frozenset({"doc_id"})
    text_column: str = "text"
    positions: str | Sequence[int] = "last"
    min_position: int | None = None
    seed: int | None = None  # a run draws one
    truncate: bool = False
    context: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.positions, str):
            object.__setattr__(self, "positions", ",".join(str(int(number)) for number in self.positions))
        if self.min_position is not None and self.min_position < 0:
            raise UsageError("min_position must not be negative")
        if self.seed is not None and self.seed < 0:
            raise UsageError("seed must not be negative")
        self.choice  # noqa: B018 - refuses what makes no sense

    @property
    def choice(self) -> Choice:
        """Which tokens are read."""
        return Choice.of(str(self.positions), self.min_position)

    @property
    def vector_column(self) -> None:
        """None."""

    @property
    def counts(self) -> bool:
        """Whether a text's tokens must be known before it is read."""
        return bool(self.truncate or self.choice.draws)

    def bytes_of_one(self, d_model: int) -> int:
        """About what the results of one position hold."""
        raise NotImplementedError

    def bound_to(self, info: Info) -> Self:
        """Texts that are cut are cut alike to the end: to the context that the source has at the beginning."""
        if not self.truncate or info.source is None:
            return self
        most = info.source.context
        return replace(self, context=most if self.context is None else min(most, self.context))

    def check(self, info: Info) -> None:
        """It takes a source model."""
        if info.source is None:
            raise UsageError("the server has no source model: start it with nla-serve --source base")

    def rows_per_piece(self, info: Info) -> int:
        """Enough to find texts of like length."""
        del info
        return PIECE_ROWS

    def weigh(self, info: Info) -> Weigh:
        """By what becomes of them."""
        context = info.source.context if info.source else None
        each = self.bytes_of_one(info.d_model)
        return partial(passages.weights, self.text_column, self.choice.count, context, each)

    def prepare(self, piece: Piece, d_model: int) -> Work:
        """Read the texts."""
        found, reasons = passages.of_piece(piece, self.text_column)
        return Work(piece, reasons, np.empty((0, d_model), np.float32), [], passages=found)

    async def plan(self, call: Call, work: Work) -> Work:
        """Take the texts apart where their tokens must be known, and choose."""
        if not self.counts:
            return work
        given = [self._with_ids_cut(passage) for passage in work.passages]

        async def send(start: int, stop: int) -> list[Passage | str]:
            some = given[start:stop]
            long = len(some) == 1 and self._is_long(some[0])
            told = [await self._beginning(call, some[0])] if long else await _taken_apart(call, some)
            return [self._chosen(*pair) for pair in zip(some, told, strict=True)]

        ranges = cut([passage.share for passage in given], [passage.form for passage in given], MAX_ROWS)
        answers = await ask(work, send, ranges)
        rows = list(zip(answers.rows, answers.reasons, strict=True))
        reasons = [reason or (found if isinstance(found, str) else None) for found, reason in rows]
        return replace(work, reasons=reasons, passages=[found for found, _ in rows if isinstance(found, Passage)])

    def _with_ids_cut(self, passage: Passage) -> Passage:
        """The same text, of ids no more than are read."""
        most = self.context if self.truncate else None
        if most is None or passage.form != "token_ids" or len(passage.item) <= most:
            return passage
        return replace(passage, item=passage.item[:most], size=most, truncated=True)

    def _is_long(self, passage: Passage) -> bool:
        """Whether it is enough to take its beginning apart. A chat's may be another where its end is missing."""
        return self.truncate and passage.form == "texts" and len(passage.item.encode()) > FIRST_BYTES

    async def _beginning(self, call: Call, passage: Passage) -> Tokenization:
        """Take as much of a long text apart as shows its first tokens, or all of it where it has no more."""
        data, size = passage.item.encode(), FIRST_BYTES
        while True:
            beginning = replace(passage, item=data[:size].decode(errors="ignore"))  # not half a character
            (told,) = await _taken_apart(call, [beginning])
            count = len(told.tokens)
            if size >= len(data) or (self.context is not None and count >= self.context + LAST_TOKENS):
                return told
            size += max(min(3 * size, MOST_BYTES - count), FIRST_BYTES // 16)

    def _chosen(self, passage: Passage, told: Tokenization) -> Passage | str:
        """The same text with its positions, or why it has none."""
        tokens, most = told.tokens, self.context
        if self.truncate and most is not None and len(tokens) > most:
            tokens = tokens[:most]
            passage = replace(passage, form="token_ids", item=[token.id for token in tokens], truncated=True)
        try:
            positions = self.choice.positions(tokens, self.seed or 0, passage.number)
        except NoPlaceError as error:
            return str(error)
        return replace(passage, positions=positions, size=len(tokens))

    def _sent(self, some: Sequence[Passage]) -> tuple[list[Any], Any]:
        """Texts and positions as the clients take them: the same choice for all, or one a text."""
        known = all(passage.positions is not None for passage in some)
        return [it.item for it in some], [it.positions for it in some] if known else self.choice.sent

    async def _extract(self, call: Call, work: Work, dtype: StoredDType) -> Answers[Extraction]:
        """Vectors of all texts, the requests of like length."""
        given = work.passages
        order = sorted(range(len(given)), key=lambda k: (given[k].form, given[k].size))
        ordered = [given[k] for k in order]

        async def send(start: int, stop: int) -> Any:
            items, where = self._sent(ordered[start:stop])
            return await call(lambda clients: clients.nla.extract(items, positions=where, dtype=dtype))

        most = MAX_ROWS // WHOLE_TEXTS if self.choice.count is None else MAX_ROWS
        shares = [max(passage.share, passage.count / REQUEST_TOKENS) for passage in ordered]
        return await ask(work, send, cut(shares, [passage.form for passage in ordered], most), order)


async def _taken_apart(call: Call, passages: Sequence[Passage]) -> Sequence[Tokenization]:
    """The tokens of each."""
    items = [passage.item for passage in passages]
    return await call(lambda clients: clients.nla.tokenize(items))
