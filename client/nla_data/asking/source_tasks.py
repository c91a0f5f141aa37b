"""What can be done with texts: extract and explain. A row of the input becomes one row of the output a position.

Texts go to the source model in requests of like length, and their rows come back in the order of the input.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, ClassVar, Final, Literal, NamedTuple, Self

import ml_dtypes
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nla_client import Explanation, Extraction, Info, Tokenization, Verbalization
from nla_client.calls.base import MAX_SAMPLES, SEEDS
from nla_client.results.base import NO_USAGE
from nla_client.wire import ReadToken, add_usage
from nla_data.asking.base import (
    MAX_ROWS,
    Fields,
    check_sampling,
    done_of,
    explained_columns,
    explained_schema,
)
from nla_data.asking.places import Choice, NoPlaceError, Passage, cut
from nla_data.asking.work import Answers, Call, Done, Work, ask
from nla_data.errors import UsageError
from nla_data.reading import texts
from nla_data.reading.source import Piece, Weigh

StoredDType = Literal["float32", "bfloat16"]
"""What vectors are kept as: bfloat16 as its bits, in uint16."""
PIECE_ROWS: Final = 256
"""Texts among which those of like length are put together."""
PIECE_BYTES: Final = 8 * 2**20
"""About what all results of a piece hold."""
REQUEST_TOKENS: Final = 16_384
"""About how many tokens of texts go in one request; a longer text goes alone."""
WHOLE_TEXTS: Final = 8
"""Texts in a request for all of their tokens, as in the clients."""
TOKEN_BYTES: Final = 3
"""Of a text, rather too few: how many a token has is known only to its tokenizer."""
SAMPLE_BYTES: Final = 2048
"""About what a sample holds with all that is known of it."""


class Read(NamedTuple):
    """What has become of one position.

    Attributes:
        vector: float32 [d]; None where vectors are not kept.
        told: What is said of it; None where it was not asked for, or could not be said.
        error: Why it could not.
    """

    text: str
    token: ReadToken
    layer: int
    vector: NDArray[np.float32] | None = None
    told: Verbalization | None = None
    error: str | None = None


class Told(NamedTuple):
    """What has become of a text: a row each, or why there is none."""

    rows: list[Read]
    error: str | None = None


@dataclass(frozen=True)
class _SourceTask(Fields):
    """What both have in common."""

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
    def stored(self) -> StoredDType | None:
        """What vectors are kept as, if they are."""
        raise NotImplementedError

    @property
    def samples(self) -> int:
        """How many come of each position."""
        return 0

    @property
    def counts(self) -> bool:
        """Whether a text's tokens must be known before it is read."""
        return bool(self.truncate or self.choice.draws)

    def bound_to(self, info: Info) -> Self:
        """Texts that are cut are cut alike to the end: to the context that the source has at the beginning."""
        if not self.truncate or info.source is None:
            return self
        most = info.source.context
        return replace(self, context=most if self.context is None else min(most, self.context))

    def output(self, d_model: int) -> pa.Schema:
        """Where the vector is from, the vector, and why there is none."""
        kind = {"float32": pa.float32(), "bfloat16": pa.uint16()}
        vector = [("activation_vector", pa.list_(kind[self.stored], d_model))] if self.stored else []
        place = [("position", pa.int64()), ("token", pa.string()), ("token_id", pa.int64())]
        text = [("n_raw_tokens", pa.int64()), ("detokenized_text_truncated", pa.string())]
        about = [("activation_layer", pa.int64()), ("norm", pa.float64()), ("remark", pa.string())]
        return pa.schema([("doc_id", pa.string()), *place, *text, *vector, *about, ("truncated", pa.bool_())])

    def check(self, info: Info) -> None:
        """It takes a source model."""
        if info.source is None:
            raise UsageError("the server has no source model: start it with nla-serve --source base")

    def rows_per_piece(self, info: Info) -> int:
        """Enough to find texts of like length."""
        del info
        return PIECE_ROWS

    def weigh(self, info: Info) -> Weigh:
        """By what becomes of them: each position has its vector, its samples, and the text before it."""
        each = self.samples * SAMPLE_BYTES + (4 * info.d_model if self.stored else 0)
        context = info.source.context if info.source else None
        return partial(self._weights, each, context)

    def _weights(self, each: int, context: int | None, batch: Any) -> NDArray[np.float64]:
        sizes = texts.sizes(batch.column(self.text_column), self.text_column)
        tokens = np.minimum(sizes // TOKEN_BYTES + 1, context or np.inf)
        count = self.choice.count
        positions = tokens if count is None else np.minimum(tokens, count)
        found: NDArray[np.float64] = (positions * (each + sizes) + sizes) / PIECE_BYTES
        return found

    def prepare(self, piece: Piece, d_model: int) -> Work:
        """Read the texts."""
        column = piece.table.column(self.text_column)
        checked = texts.read(column, self.text_column)
        good = [k for k, reason in enumerate(checked.reasons) if reason is None]
        sizes = texts.sizes(column, self.text_column) // (4 if checked.form == "token_ids" else TOKEN_BYTES)
        passages = [
            Passage(int(piece.numbers[k]), checked.form, item, int(sizes[k]) + 1)
            for k, item in zip(good, checked.items, strict=True)
        ]
        return Work(piece, checked.reasons, np.empty((0, d_model), np.float32), [], passages=passages)

    async def plan(self, call: Call, work: Work) -> Work:
        """Take the texts apart where their tokens must be known, and choose."""
        if not self.counts:
            return work
        passages = work.passages

        async def send(start: int, stop: int) -> list[Passage | str]:
            items = [passage.item for passage in passages[start:stop]]
            told = await call(lambda clients: clients.nla.tokenize(items))
            return [self._chosen(*pair) for pair in zip(passages[start:stop], told, strict=True)]

        ranges = cut([passage.size / REQUEST_TOKENS for passage in passages], [it.form for it in passages], MAX_ROWS)
        answers = await ask(work, send, ranges)
        rows = list(zip(answers.rows, answers.reasons, strict=True))
        reasons = [reason or (found if isinstance(found, str) else None) for found, reason in rows]
        kept = [found for found, _ in rows if isinstance(found, Passage)]
        return replace(work, reasons=reasons, passages=kept)

    def _chosen(self, passage: Passage, told: Tokenization) -> Passage | str:
        """The same text with its positions, or why it has none."""
        tokens, most = told.tokens, self.context
        is_cut = self.truncate and most is not None and len(tokens) > most
        if is_cut:
            tokens = tokens[:most]
            passage = replace(passage, form="token_ids", item=[token.id for token in tokens], truncated=True)
        try:
            positions = self.choice.positions(tokens, self.seed or 0, passage.number)
        except NoPlaceError as error:
            return str(error)
        return replace(passage, positions=positions, size=len(tokens))

    def _where(self, passages: Sequence[Passage]) -> Any:
        """Positions as the clients take them: the same choice for all, or one a text."""
        if any(passage.positions is None for passage in passages):
            return self.choice.sent
        return [passage.positions for passage in passages]

    async def _extract(self, call: Call, work: Work) -> Answers[Extraction]:
        """Vectors of all texts, the requests of like length."""
        passages = work.passages
        order = sorted(range(len(passages)), key=lambda k: (passages[k].form, passages[k].size))
        ordered = [passages[k] for k in order]
        dtype = self._wire

        async def send(start: int, stop: int) -> Any:
            some = ordered[start:stop]
            items, where = [passage.item for passage in some], self._where(some)
            return await call(lambda clients: clients.nla.extract(items, positions=where, dtype=dtype))

        is_whole = self.choice.count is None
        shares = [max(it.size / REQUEST_TOKENS, len(it.positions or ()) / REQUEST_TOKENS) for it in ordered]
        ranges = cut(shares, [it.form for it in ordered], WHOLE_TEXTS if is_whole else MAX_ROWS)
        return await ask(work, send, ranges, order)

    @property
    def _wire(self) -> StoredDType:
        """In float32 nothing is lost, whatever the engine computes in."""
        return "float32"

    def _done(self, work: Work, answers: Answers[Any], told: Sequence[Told], more: dict[str, Any]) -> Done:
        """Form the columns of what became of each row of the piece, and of those that are `more`."""
        rows = [row for text in told for row in (text.rows or (None,))]
        counts = [max(len(text.rows), 1) for text in told]
        origin = np.repeat(np.arange(len(told)), counts)
        given = iter(work.passages)
        cuts = [next(given).truncated if reason is None else None for reason in work.reasons]
        errors = [error for text in told for error in ([row.error for row in text.rows] or [text.error])]
        schema = self.output(work.vectors.shape[1])
        columns: dict[str, Any] = {
            "doc_id": [str(number) for number in work.piece.numbers[origin]],
            "position": [row and row.token.position for row in rows],
            "token": [row and row.token.text for row in rows],
            "token_id": [row and row.token.id for row in rows],
            "n_raw_tokens": [row and row.token.position + 1 for row in rows],
            "detokenized_text_truncated": [row and row.text[: row.token.end] for row in rows],
            "activation_layer": [row and row.layer for row in rows],
            "norm": [row and row.token.norm for row in rows],
            "remark": [row and row.token.remark for row in rows],
            "truncated": [cuts[k] for k in origin],
            "error": errors,
        }
        if self.stored:
            columns["activation_vector"] = _vectors(rows, schema.field("activation_vector").type)
        if more:
            columns |= explained_columns([row and row.told for row in rows])
            columns |= {name: [value] * len(rows) for name, value in more.items()}
            columns["input_row"] = work.piece.numbers[origin]
        return done_of(columns, schema, answers, origin)


@dataclass(frozen=True)
class Extract(_SourceTask):
    """Texts to vectors.

    Attributes:
        text_column: Of texts, chats (lists of structs with role and content) or lists of token ids.
        positions: `last`, `all`, `content`, `random:N`, or numbers, negative from the end.
        min_position: Where drawing begins; None for 50.
        seed: Of what is drawn.
        truncate: Whether a text longer than the source's context is cut to it.
        context: Tokens to which it is cut; None for as many as the source takes.
        vectors: What they are kept as.
    """

    name: ClassVar[str] = "extract"
    vectors: StoredDType = "float32"

    @property
    def stored(self) -> StoredDType:
        """As asked for."""
        return self.vectors

    @property
    def _wire(self) -> StoredDType:
        return self.vectors

    def output(self, d_model: int) -> pa.Schema:
        """As told there, and why there is none."""
        return pa.schema([*super().output(d_model), ("error", pa.string())])

    async def answer(self, call: Call, work: Work) -> Done:
        """As few requests as hold texts of like length."""
        answers = await self._extract(call, work)
        told = [
            Told(_read(found) if found else [], reason)
            for found, reason in zip(answers.rows, answers.reasons, strict=True)
        ]
        return self._done(work, answers, told, {})


@dataclass(frozen=True)
class Explain(_SourceTask):
    """Texts to explanations; arguments as of `Extract` and `NLAClient.explain`.

    Attributes:
        best: All samples of a position are scored, and the one whose mse is lowest is chosen.
        vectors: What vectors are kept as; None for not at all.
    """

    name: ClassVar[str] = "explain"
    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int | None = None
    max_tokens: int = 200
    score: bool = False
    best: bool = False
    vectors: StoredDType | None = None

    @property
    def stored(self) -> StoredDType | None:
        """As asked for."""
        return self.vectors

    @property
    def samples(self) -> int:
        """As asked for."""
        return self.n

    @property
    def counts(self) -> bool:
        """Always: what a row takes of the seeds is known by its positions."""
        return True

    def bound_to(self, info: Info) -> Self:
        """A text that is too long takes no seeds."""
        most = info.source.context if info.source else None
        return replace(self, context=most) if most and not self.truncate else super().bound_to(info)

    def settings(self) -> dict[str, Any]:
        """Without what only tells which rows fail."""
        return super().settings() | ({} if self.truncate else {"context": None})

    def output(self, d_model: int) -> pa.Schema:
        """As `extract`, and as `verbalize`."""
        about = [("input_row", pa.int64()), ("error", pa.string()), ("model", pa.string()), ("settings", pa.string())]
        return pa.schema([*super().output(d_model), *explained_schema(), *about])

    def check(self, info: Info) -> None:
        """It takes a source model, and what `verbalize` takes."""
        super().check(info)
        check_sampling(self, info)

    def _chosen(self, passage: Passage, told: Tokenization) -> Passage | str:
        count = len(told.tokens)
        if not self.truncate and self.context is not None and count > self.context:
            return (
                f"the text has {count} tokens; at most {self.context} are taken: shorten it, cut it with --truncate, or"
                " start the server with more by --source-context"
            )
        return super()._chosen(passage, told)

    async def answer(self, call: Call, work: Work) -> Done:
        """A position's seed is the run's plus its place among all positions, however they are split."""
        answers = await (self._verbalized(call, work) if self.vectors else self._explained(call, work))
        told = [row or Told([], reason) for row, reason in zip(answers.rows, answers.reasons, strict=True)]
        left_out = ("text_column", "vectors", "context")
        settings = {name: value for name, value in asdict(self).items() if name not in left_out}
        return self._done(work, answers, told, {"model": answers.model or None, "settings": json.dumps(settings)})

    @property
    def _sampling(self) -> dict[str, Any]:
        names = ("n", "temperature", "top_p", "top_k", "max_tokens")
        return {name: getattr(self, name) for name in names} | {"score": self.score or self.best}

    def _seed(self, work: Work, before: int) -> int:
        return ((self.seed or 0) + work.offset + before) % SEEDS

    async def _explained(self, call: Call, work: Work) -> Answers[Told]:
        """By `/explain`: both steps in one request. Its texts follow one another, as their seeds do."""
        passages = work.passages
        before = _sums([len(passage.positions or ()) for passage in passages])

        async def send(start: int, stop: int) -> Any:
            some, seed = passages[start:stop], self._seed(work, before[start])
            items, where = [passage.item for passage in some], self._where(some)
            found = await call(lambda clients: clients.nla.explain(items, positions=where, seed=seed, **self._sampling))
            return type(found)([self._told(one) for one in found], found.model, found.usage)

        shares = [max(self._share(len(it.positions or ())), it.size / REQUEST_TOKENS) for it in passages]
        return await ask(work, send, cut(shares, [it.form for it in passages], MAX_ROWS))

    def _told(self, found: Explanation) -> Told:
        rows = [Read(found.text, token, found.layer, None, self._pick(token.samples)) for token in found.tokens]
        return Told(rows)

    def _pick(self, samples: Sequence[Any]) -> Verbalization:
        told = Verbalization(tuple(samples))
        return told.with_best() if self.best else told

    def _share(self, positions: int) -> float:
        return positions * self.n / MAX_SAMPLES

    async def _verbalized(self, call: Call, work: Work) -> Answers[Told]:
        """By `/extract` and then `/verbalize`, so that the vectors that are kept are those that are explained."""
        answers = await self._extract(call, work)
        before = iter(_sums([len(passage.positions or ()) for passage in work.passages]))
        starts = [next(before) if reason is None else 0 for reason in work.reasons]
        rows = [
            _Placed(start + k, row)
            for start, found in zip(starts, answers.rows, strict=True)
            for k, row in enumerate(_read(found) if found else [])
        ]
        told = await self._sampled(call, work, rows)
        given = iter(zip(rows, told.rows, told.reasons, strict=True))
        read = [Told([_with(*next(given)) for _ in found.tokens]) if found else None for found in answers.rows]
        usage = add_usage([answers.usage, told.usage])
        return Answers(read, answers.reasons, answers.sent, told.model, usage)

    async def _sampled(self, call: Call, work: Work, rows: Sequence["_Placed"]) -> Answers[Verbalization]:
        own = Work(work.piece, [None] * len(rows), work.vectors, [])
        ranges = _runs([row.place for row in rows], max(1, min(MAX_ROWS, MAX_SAMPLES // self.n)))

        async def send(start: int, stop: int) -> Any:
            given = np.stack([row.read.vector for row in rows[start:stop] if row.read.vector is not None])
            seed = self._seed(work, rows[start].place)
            options = self._sampling | {"best": self.best, "dtype": "float32"}
            return await call(lambda clients: clients.nla.verbalize(given, seed=seed, **options))

        return await ask(own, send, ranges) if rows else Answers([], [], 0, "", NO_USAGE)


class _Placed(NamedTuple):
    """A position that was read, with its place among all positions of the piece."""

    place: int
    read: Read


def _with(placed: _Placed, told: Verbalization | None, error: str | None) -> Read:
    return placed.read._replace(told=told, error=error)


def _read(found: Extraction) -> list[Read]:
    pairs = zip(found.tokens, found.vectors, strict=True)
    return [Read(found.text, token, found.layer, vector) for token, vector in pairs]


def _sums(counts: Sequence[int]) -> list[int]:
    """Before each, all that came before it."""
    return [0, *np.cumsum(counts, dtype=np.int64).tolist()]


def _runs(places: Sequence[int], most: int) -> list[range]:
    """Stretches of places that follow one another, of at most so many."""
    found, start = list[range](), 0
    for stop in range(1, len(places) + 1):
        if stop == len(places) or stop - start == most or places[stop] != places[stop - 1] + 1:
            found.append(range(start, stop))
            start = stop
    return found


def _vectors(rows: Sequence[Read | None], kind: pa.DataType) -> Any:
    """A column of vectors; null where there is none."""
    matrix = np.zeros((len(rows), kind.list_size), np.float32)
    missing = np.ones(len(rows), bool)
    for k, row in enumerate(rows):
        if row is not None and row.vector is not None:
            matrix[k], missing[k] = row.vector, False
    bits = matrix if kind.value_type == pa.float32() else matrix.astype(ml_dtypes.bfloat16).view(np.uint16)
    return pa.FixedSizeListArray.from_arrays(pa.array(bits.reshape(-1)), type=kind, mask=pa.array(missing))
