"""Texts to vectors: extract."""

from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa

from nla_data.asking import text_rows
from nla_data.asking.base import done_of
from nla_data.asking.source_task import SourceTask
from nla_data.asking.text_rows import StoredDType, TextRows
from nla_data.asking.work import Call, Done, Work


@dataclass(frozen=True)
class Extract(SourceTask):
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

    def bytes_of_one(self, d_model: int) -> int:
        """Its vector, in float32 on its way."""
        return 4 * d_model

    def output(self, d_model: int) -> pa.Schema:
        """Where the vector is from, the vector, and why there is none."""
        return pa.schema([*text_rows.schema(d_model, self.vectors), ("error", pa.string())])

    async def answer(self, call: Call, work: Work) -> Done:
        """As few requests as hold texts of like length."""
        answers = await self._extract(call, work, self.vectors)
        rows = TextRows(work, [text_rows.read(found) for found in answers.rows], answers.reasons)
        schema = self.output(work.vectors.shape[1])
        return done_of(rows.columns(schema), schema, answers, rows.origin)
