"""What becomes of a text: a row of the output for each position, and the columns of all of them. Pure."""

from collections.abc import Sequence
from typing import Any, Final, Literal, NamedTuple

import ml_dtypes
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nla_client import Extraction, Verbalization
from nla_client.results.explained import token_row
from nla_client.wire import ReadToken
from nla_data.asking.base import Columns, columns_of
from nla_data.asking.work import Work

StoredDType = Literal["float32", "bfloat16"]
"""What vectors are kept as: bfloat16 as its bits, in uint16."""
VECTOR: Final = "activation_vector"
_OF_TOKEN: Final = ("position", "token", "token_id", "norm", "remark")


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


def read(found: Extraction | None) -> list[Read]:
    """The positions of a text; none where it was not read."""
    if found is None:
        return []
    pairs = zip(found.tokens, found.vectors, strict=True)
    return [Read(found.text, token, found.layer, vector) for token, vector in pairs]


def schema(d_model: int, stored: StoredDType | None) -> pa.Schema:
    """Where each vector is from, and the vector if it is stored."""
    kind = {"float32": pa.float32(), "bfloat16": pa.uint16()}
    vector = [(VECTOR, pa.list_(kind[stored], d_model))] if stored else []
    place = [("position", pa.int64()), ("token", pa.string()), ("token_id", pa.int64())]
    text = [("n_raw_tokens", pa.int64()), ("detokenized_text_truncated", pa.string())]
    about = [("activation_layer", pa.int64()), ("norm", pa.float64()), ("remark", pa.string())]
    return pa.schema([("doc_id", pa.string()), *place, *text, *vector, *about, ("truncated", pa.bool_())])


class TextRows:
    """The rows of the output for a piece of texts: one at least for each text, in order.

    Args:
        work: The texts.
        found: What was read of each of them.
        reasons: Why nothing was.

    Attributes:
        rows: What each holds; None for that of a text of which nothing was read.
        origin: Of which row of the piece each is, [M].
    """

    def __init__(self, work: Work, found: Sequence[list[Read] | None], reasons: Sequence[str | None]) -> None:
        texts: list[Sequence[Read | None]] = [text or [None] for text in found]
        self._work = work
        self.rows = [row for text in texts for row in text]
        self.origin = np.repeat(np.arange(len(texts)), [len(text) for text in texts])
        self._errors = [
            row.error if row else reason for text, reason in zip(texts, reasons, strict=True) for row in text
        ]

    def columns(self, wanted: pa.Schema) -> Columns:
        """Where they are from and what was read; the vectors only if they are wanted."""
        rows, numbers = self.rows, self._work.piece.numbers[self.origin]
        cuts = self._work.at_rows(passage.truncated for passage in self._work.passages)
        columns = columns_of([token_row(row.token) if row else {} for row in rows], _OF_TOKEN)
        columns |= {
            "doc_id": [str(number) for number in numbers],
            "n_raw_tokens": [row and row.token.position + 1 for row in rows],
            "detokenized_text_truncated": [row and row.text[: row.token.end] for row in rows],
            "activation_layer": [row and row.layer for row in rows],
            "truncated": [cuts[k] for k in self.origin],
            "input_row": numbers,
            "error": self._errors,
        }
        if VECTOR in wanted.names:
            columns[VECTOR] = _vectors(rows, wanted.field(VECTOR).type)
        return columns


def _vectors(rows: Sequence[Read | None], kind: pa.DataType) -> Any:
    """A column of vectors; null where there is none."""
    matrix = np.zeros((len(rows), kind.list_size), np.float32)
    missing = np.ones(len(rows), bool)
    for k, row in enumerate(rows):
        if row is not None and row.vector is not None:
            matrix[k], missing[k] = row.vector, False
    bits = matrix if kind.value_type == pa.float32() else matrix.astype(ml_dtypes.bfloat16).view(np.uint16)
    return pa.FixedSizeListArray.from_arrays(pa.array(bits.reshape(-1)), type=kind, mask=pa.array(missing))
