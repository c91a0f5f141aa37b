"""Arrow columns to what the source model reads: texts, chats or token ids, row by row with what is wrong with it. Pure.

A column's type tells which they are.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nla_client.calls.sources import Form
from nla_data.errors import UsageError
from nla_data.reading.types import is_list, is_text

_MESSAGE = ("role", "content")


@dataclass(frozen=True)
class Checked:
    """The texts of some rows.

    Attributes:
        form: Of all of them.
        items: A str, a list of messages or a list of ids for each good row.
        reasons: For each row None, or why it is not among them.
    """

    form: Form
    items: list[Any]
    reasons: list[str | None]


def form_of(kind: pa.DataType, name: str) -> Form:
    """What a column holds.

    Raises:
        UsageError: none of the three, naming the column and its type.
    """
    if is_text(kind):
        return "texts"
    if is_list(kind):
        if pa.types.is_integer(kind.value_type):
            return "token_ids"
        if pa.types.is_struct(kind.value_type) and all(_has_text(kind.value_type, part) for part in _MESSAGE):
            return "chats"
    raise UsageError(
        f"column {name!r} holds {kind}: it must be texts, chats (lists of structs with role and content) or lists of"
        " token ids"
    )


def read(column: pa.Array, name: str) -> Checked:
    """The texts of a column, [N] rows."""
    form = form_of(column.type, name)
    judges: dict[Form, Callable[[Any], tuple[Any, str | None]]] = {"texts": text_of, "chats": _chat, "token_ids": _ids}
    found = [judges[form](value) for value in _values(column, form)]
    return Checked(form, [item for item, reason in found if reason is None], [reason for _, reason in found])


def sizes(column: pa.Array, name: str) -> NDArray[np.int64]:
    """Bytes of each row's text, [N]; of ids four each, about as many as the text that they stand for."""
    form = form_of(column.type, name)
    if form == "texts":
        return _numbers(pc.binary_length(column))
    counts = _numbers(pc.list_value_length(column))
    if form == "token_ids":
        return 4 * counts
    lengths = _numbers(pc.binary_length(column.flatten().field("content")))
    sums, ends = np.concatenate([[0], np.cumsum(lengths)]), np.cumsum(counts)
    found: NDArray[np.int64] = sums[ends] - sums[ends - counts]
    return found


def _numbers(column: Any) -> NDArray[np.int64]:
    found: NDArray[np.int64] = column.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    return found


def _has_text(kind: pa.DataType, name: str) -> bool:
    place = kind.get_field_index(name)
    return place >= 0 and is_text(kind.field(place).type)


def _values(column: pa.Array, form: Form) -> list[Any]:
    if form == "texts":
        return as_bytes(column)
    if form == "token_ids":
        return list(column.to_pylist())
    flat = column.flatten()
    parts = [as_bytes(flat.field(part)) for part in _MESSAGE]
    missing = flat.is_null().to_pylist()
    messages = [None if gone else pair for gone, *pair in zip(missing, *parts, strict=True)]
    ends = np.cumsum(_numbers(pc.list_value_length(column))).tolist()
    starts = [0, *ends]
    whole = column.is_valid().to_pylist()
    return [messages[start:end] if there else None for start, end, there in zip(starts, ends, whole, strict=False)]


def as_bytes(column: pa.Array) -> list[bytes | None]:
    """A column of texts, which Arrow does not see to be UTF-8."""
    values: list[bytes | None] = column.cast(pa.large_binary()).to_pylist()
    return values


def text_of(value: bytes | None) -> tuple[str, str | None]:
    """A text, and None or why there is none."""
    try:
        text = (value or b"").decode()
    except UnicodeDecodeError:
        return "", "no text: its bytes are not UTF-8"
    return text, None if text else "no text"


def _chat(value: list[list[bytes | None] | None] | None) -> tuple[list[dict[str, str]], str | None]:
    if not value:
        return [], "no messages"
    messages = []
    for index, message in enumerate(value):
        for part, content in zip(_MESSAGE, message or (None, None), strict=True):
            if content is None:
                return [], f"message {index} has no {part}"
        try:
            messages.append(
                {part: bytes(text or b"").decode() for part, text in zip(_MESSAGE, message or (), strict=True)}
            )
        except UnicodeDecodeError:
            return [], f"message {index} is no text: its bytes are not UTF-8"
    return messages, None


def _ids(value: list[int | None] | None) -> tuple[list[int], str | None]:
    if not value:
        return [], "no token ids"
    if None in value:
        return [], f"token id {value.index(None)} is missing"
    return [one for one in value if one is not None], None
