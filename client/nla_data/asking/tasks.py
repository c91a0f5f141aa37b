"""What can be done with rows: verbalize, reconstruct, score. Each sends a piece, and makes columns of the answer.

A task knows the columns that it reads and writes and the clients' calls; nothing of files, retries or order.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Protocol, Self

import numpy as np
import pyarrow as pa

from nla_client import Info
from nla_client.calls.base import MAX_SAMPLES
from nla_client.results import tables
from nla_client.wire import VectorDType
from nla_data.asking.base import (
    Fields,
    check_sampling,
    columns_of,
    done_of,
    dtype_of,
    explained_columns,
    explained_schema,
    made_by,
    need,
    need_scores,
    tokens_of,
)
from nla_data.asking.work import Call, Done, Work, ask
from nla_data.reading import texts, vectors
from nla_data.reading.source import Piece, Weigh


class Task(Protocol):
    """What is done with rows."""

    name: ClassVar[str]
    reads_source: ClassVar[bool]
    """Whether the texts are for the source model, and may be chats and token ids."""
    seeds_by_position: ClassVar[bool]
    """Whether a row takes a seed for each of its positions, and not one."""
    yields: ClassVar[frozenset[str]]
    """New columns that give way to columns of the input."""

    @property
    def vector_column(self) -> str | None:
        """The column of vectors that it reads, if it does."""

    @property
    def text_column(self) -> str | None:
        """The column of texts that it reads, if it does."""

    def settings(self) -> dict[str, Any]:
        """What its results depend on, beside rows and models."""

    def output(self, d_model: int) -> pa.Schema:
        """The columns that it adds."""

    def bound_to(self, info: Info) -> Self:
        """The same task, with what it takes from the server."""

    def check(self, info: Info) -> None:
        """Refuse a server that cannot do it.

        Raises:
            UsageError: an engine is missing, or a limit is lower.
        """

    def rows_per_piece(self, info: Info) -> int:
        """Most rows of a piece."""

    def weigh(self, info: Info) -> Weigh | None:
        """How much of a piece each row takes; None where all rows are alike."""

    def prepare(self, piece: Piece, d_model: int) -> Work:
        """Take what it needs of a piece, and see what cannot be sent."""

    async def plan(self, call: Call, work: Work) -> Work:
        """Ask what must be known before the seeds of the rows that come after these can be told."""

    async def answer(self, call: Call, work: Work) -> Done:
        """Send what can be sent, and form the new columns."""


@dataclass(frozen=True)
class Verbalize(Fields):
    """Vectors to explanations; arguments as of `NLAClient.verbalize`."""

    name: ClassVar[str] = "verbalize"
    vector_column: str = "activation_vector"
    dtype: VectorDType | None = None  # as the engine computes
    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int | None = None
    max_tokens: int | None = None  # 200, or the server's limit if that is less
    seed: int | None = None  # a run draws one
    score: bool = False
    best: bool = False

    @property
    def text_column(self) -> None:
        """None."""

    def output(self, d_model: int) -> pa.Schema:
        """The chosen sample, all of them, the spread of their mse, and what made them."""
        del d_model
        about = [("norm", pa.float64()), ("input_row", pa.int64()), ("error", pa.string())]
        return pa.schema([*explained_schema(), *about, ("model", pa.string()), ("settings", pa.string())])

    def bound_to(self, info: Info) -> Self:
        """Vectors go as the verbalizer computes; texts are as long as usual, if the server lets them."""
        dtype = self.dtype or dtype_of(info.verbalizer)
        return replace(self, dtype=dtype, max_tokens=tokens_of(self.max_tokens, info))

    def check(self, info: Info) -> None:
        """It takes a verbalizer, to score a reconstructor, and the server's limits."""
        check_sampling(self, info)

    def rows_per_piece(self, info: Info) -> int:
        """As many as the clients send, with fewer rows the more samples each has."""
        samples = min(MAX_SAMPLES, info.limits.max_samples)
        return max(1, min(super().rows_per_piece(info), samples // self.n))

    def prepare(self, piece: Piece, d_model: int) -> Work:
        """Read the vectors."""
        checked = vectors.read(piece.table.column(self.vector_column), d_model)
        return Work(piece, checked.reasons, checked.vectors, [])

    async def answer(self, call: Call, work: Work) -> Done:
        """One request. A row's seed is the run's plus its place among the good rows, however they are split."""
        options = {name: value for name, value in asdict(self).items() if name not in ("vector_column", "seed")}

        async def send(start: int, stop: int) -> Any:
            seed, given = work.seed(self.seed, start), work.vectors[start:stop]
            return await call(lambda clients: clients.nla.verbalize(given, seed=seed, **options))

        answers = await ask(work, send)
        columns = explained_columns(answers.rows)
        columns |= {"norm": _norms(work), "input_row": work.piece.numbers, "error": answers.reasons}
        columns |= made_by(answers, options | {"seed": self.seed}, answers.rows)
        return done_of(columns, self.output(work.vectors.shape[1]), answers)


@dataclass(frozen=True)
class Reconstruct(Fields):
    """Texts to vectors."""

    name: ClassVar[str] = "reconstruct"
    text_column: str = "explanation"
    dtype: VectorDType | None = None  # as the engine computes

    @property
    def vector_column(self) -> None:
        """None."""

    def output(self, d_model: int) -> pa.Schema:
        """The rebuilt vector, unnormalised, or why there is none."""
        vector = pa.list_(pa.float32(), d_model)
        return pa.schema([("reconstruction", vector), ("reconstruction_error", pa.string())])

    def bound_to(self, info: Info) -> Self:
        """Vectors come as the reconstructor computes."""
        return replace(self, dtype=self.dtype or dtype_of(info.reconstructor))

    def check(self, info: Info) -> None:
        """It takes a reconstructor."""
        need(info.reconstructor, "reconstructor")

    def prepare(self, piece: Piece, d_model: int) -> Work:
        """Read the texts."""
        found, reasons = _texts(piece.table.column(self.text_column))
        return Work(piece, reasons, np.empty((len(found), d_model), np.float32), found)

    async def answer(self, call: Call, work: Work) -> Done:
        """One request."""

        async def send(start: int, stop: int) -> Any:
            given = work.texts[start:stop]
            return await call(lambda clients: clients.critic.reconstruct(given, dtype=self.dtype or "bfloat16"))

        answers = await ask(work, send)
        columns = {"reconstruction": answers.rows, "reconstruction_error": answers.reasons}
        return done_of(columns, self.output(work.vectors.shape[1]), answers)


@dataclass(frozen=True)
class ScorePairs(Fields):
    """Texts against vectors."""

    name: ClassVar[str] = "score"
    vector_column: str = "activation_vector"
    text_column: str = "explanation"
    dtype: VectorDType | None = None  # as the engine computes

    def output(self, d_model: int) -> pa.Schema:
        """The score, or why there is none."""
        del d_model
        return pa.schema([*tables.scores(), ("score_error", pa.string())])

    def bound_to(self, info: Info) -> Self:
        """Vectors go as the reconstructor computes."""
        return replace(self, dtype=self.dtype or dtype_of(info.reconstructor))

    def check(self, info: Info) -> None:
        """It takes a reconstructor whose scores make sense."""
        need_scores(info)

    def prepare(self, piece: Piece, d_model: int) -> Work:
        """Read texts and vectors: both must be good."""
        checked = vectors.read(piece.table.column(self.vector_column), d_model)
        found, reasons = _texts(piece.table.column(self.text_column))
        both = [first or second for first, second in zip(checked.reasons, reasons, strict=True)]
        good_vectors = [both[k] is None for k, reason in enumerate(checked.reasons) if reason is None]
        good_texts = [both[k] is None for k, reason in enumerate(reasons) if reason is None]
        kept = [text for text, good in zip(found, good_texts, strict=True) if good]
        return Work(piece, both, checked.vectors[good_vectors], kept)

    async def answer(self, call: Call, work: Work) -> Done:
        """One request."""

        async def send(start: int, stop: int) -> Any:
            told, given = work.texts[start:stop], work.vectors[start:stop]
            return await call(lambda clients: clients.critic.score(told, given, dtype=self.dtype or "bfloat16"))

        answers = await ask(work, send)
        columns = columns_of([it.model_dump() if it else {} for it in answers.rows], list(tables.SCORES))
        return done_of(columns | {"score_error": answers.reasons}, self.output(work.vectors.shape[1]), answers)


def _texts(column: pa.Array) -> tuple[list[str], list[str | None]]:
    """The good texts, and for each row None or what is wrong with it."""
    read = [_text(value) for value in texts.as_bytes(column)]
    return [text for text, reason in read if reason is None], [reason for _, reason in read]


def _text(value: bytes | None) -> tuple[str, str | None]:
    text, reason = texts.text_of(value)
    return text, reason or (None if text.strip() else "no text")


def _norms(work: Work) -> list[float | None]:
    """Norms of the good vectors, in their rows."""
    return work.at_rows(np.linalg.norm(work.vectors.astype(np.float64), axis=1).tolist())
