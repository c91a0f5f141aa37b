"""Texts to explanations: explain. By `/explain`, or by `/extract` and `/verbalize` where the vectors are kept."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import accumulate
from typing import Any, ClassVar, Final, NamedTuple, Self

import numpy as np
import pyarrow as pa

from nla_client import Explanation, Info, Tokenization, Verbalization
from nla_client.calls.base import MAX_SAMPLES
from nla_client.results.base import Results
from nla_client.wire import add_usage
from nla_data.asking import text_rows
from nla_data.asking.base import (
    MAX_ROWS,
    check_sampling,
    done_of,
    explained_columns,
    explained_schema,
    made_by,
    tokens_of,
)
from nla_data.asking.passages import Passage, cut
from nla_data.asking.source_task import SourceTask
from nla_data.asking.text_rows import Read, StoredDType, TextRows
from nla_data.asking.work import Answers, Call, Done, Work, ask

SAMPLE_BYTES: Final = 2048
"""About what a sample holds with all that is known of it."""


class _Placed(NamedTuple):
    """A position that was read, with its place among all positions of the piece."""

    place: int
    read: Read


@dataclass(frozen=True)
class Explain(SourceTask):
    """Texts to explanations; arguments as of `Extract` and `NLAClient.explain`.

    Attributes:
        best: All samples of a position are scored, and the one whose mse is lowest is chosen.
        vectors: What vectors are kept as; None for not at all.
    """

    name: ClassVar[str] = "explain"
    seeds_by_position: ClassVar[bool] = True
    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int | None = None
    max_tokens: int | None = None  # 200, or the server's limit if that is less
    score: bool = False
    best: bool = False
    vectors: StoredDType | None = None

    @property
    def counts(self) -> bool:
        """Always: what a row takes of the seeds is known by its positions."""
        return True

    def bytes_of_one(self, d_model: int) -> int:
        """Its samples, and its vector if that is kept."""
        return self.n * SAMPLE_BYTES + (4 * d_model if self.vectors else 0)

    def bound_to(self, info: Info) -> Self:
        """A text that is too long takes no seeds; what is said is as long as usual, if the server lets it."""
        bound = replace(super().bound_to(info), max_tokens=tokens_of(self.max_tokens, info))
        return bound if self.truncate or info.source is None else replace(bound, context=info.source.context)

    def settings(self) -> dict[str, Any]:
        """Without what only tells which rows fail."""
        return super().settings() | ({} if self.truncate else {"context": None})

    def output(self, d_model: int) -> pa.Schema:
        """As `extract`, and as `verbalize`."""
        about = [("input_row", pa.int64()), ("error", pa.string()), ("model", pa.string()), ("settings", pa.string())]
        return pa.schema([*text_rows.schema(d_model, self.vectors), *explained_schema(), *about])

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
        rows, schema = TextRows(work, answers.rows, answers.reasons), self.output(work.vectors.shape[1])
        left_out = ("text_column", "vectors", "context")
        settings = {name: value for name, value in asdict(self).items() if name not in left_out}
        told = [row and row.told for row in rows.rows]
        columns = rows.columns(schema) | explained_columns(told) | made_by(answers, settings, told)
        return done_of(columns, schema, answers, rows.origin)

    @property
    def _sampling(self) -> dict[str, Any]:
        names = ("n", "temperature", "top_p", "top_k", "max_tokens")
        return {name: getattr(self, name) for name in names} | {"score": self.score or self.best}

    async def _explained(self, call: Call, work: Work) -> Answers[list[Read]]:
        """Both steps in one request. Its texts follow one another, as their seeds do."""
        given, before = work.passages, _before(work)

        async def send(start: int, stop: int) -> Any:
            (items, where), seed = self._sent(given[start:stop]), work.seed(self.seed, before[start])
            found = await call(lambda clients: clients.nla.explain(items, positions=where, seed=seed, **self._sampling))
            return Results([self._read(one) for one in found], found.model, found.usage)

        shares = [max(passage.count * self.n / MAX_SAMPLES, passage.share) for passage in given]
        return await ask(work, send, cut(shares, [passage.form for passage in given], MAX_ROWS))

    def _read(self, found: Explanation) -> list[Read]:
        told = [Verbalization(tuple(token.samples)) for token in found.tokens]
        chosen = [one.with_best() for one in told] if self.best else told
        pairs = zip(found.tokens, chosen, strict=True)
        return [Read(found.text, token, found.layer, None, one) for token, one in pairs]

    async def _verbalized(self, call: Call, work: Work) -> Answers[list[Read]]:
        """One step after the other, so that the vectors that are kept are those that are explained."""
        answers = await self._extract(call, work, "float32")  # in which nothing is lost, whatever is computed in
        texts = [text_rows.read(found) for found in answers.rows]
        starts = work.at_rows(_before(work))
        rows = [
            _Placed((start or 0) + k, one)
            for start, text in zip(starts, texts, strict=True)
            for k, one in enumerate(text)
        ]
        told = await self._sampled(call, work, rows)
        done = iter(
            row.read._replace(told=found, error=error)
            for row, found, error in zip(rows, told.rows, told.reasons, strict=True)
        )
        usage = add_usage([answers.usage, told.usage])
        return Answers([[next(done) for _ in text] for text in texts], answers.reasons, answers.sent, told.model, usage)

    async def _sampled(self, call: Call, work: Work, rows: Sequence[_Placed]) -> Answers[Verbalization]:
        options = self._sampling | {"best": self.best, "dtype": "float32"}

        async def send(start: int, stop: int) -> Any:
            given = np.stack([row.read.vector for row in rows[start:stop] if row.read.vector is not None])
            seed = work.seed(self.seed, rows[start].place)
            return await call(lambda clients: clients.nla.verbalize(given, seed=seed, **options))

        # Of one request are places that follow one another, as seeds do.
        shares, gaps = [0.0] * len(rows), [row.place - k for k, row in enumerate(rows)]
        ranges = cut(shares, gaps, max(1, min(MAX_ROWS, MAX_SAMPLES // self.n)))
        return await ask(Work(work.piece, [None] * len(rows), work.vectors, []), send, ranges)


def _before(work: Work) -> list[int]:
    """How many positions come before those of each text that can be sent, and how many there are."""
    return list(accumulate((passage.count for passage in work.passages), initial=0))
