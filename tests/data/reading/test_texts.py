"""Columns to texts, chats and token ids: every row is what it is, or has its reason."""

from typing import Any, Final

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nla_data.errors import UsageError
from nla_data.reading import texts

WORDS: Final = st.none() | st.text(max_size=5)
MESSAGE: Final = pa.struct([("name", pa.int8()), ("content", pa.large_string()), ("role", pa.string())])
MESSAGES: Final = st.none() | st.fixed_dictionaries({"role": WORDS, "content": WORDS})
CHATS: Final = st.none() | st.lists(MESSAGES, max_size=3)
IDS: Final = st.none() | st.lists(st.none() | st.integers(0, 999), max_size=3)
CASES: Final = st.one_of(
    st.tuples(st.sampled_from([pa.string(), pa.large_string()]), st.lists(WORDS, min_size=1)),
    st.tuples(st.sampled_from([pa.list_(MESSAGE), pa.large_list(MESSAGE)]), st.lists(CHATS, min_size=1)),
    st.tuples(st.sampled_from([pa.list_(pa.int64()), pa.large_list(pa.uint16())]), st.lists(IDS, min_size=1)),
)


def is_good(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and all(
            one is not None and (isinstance(one, int) or None not in (one["role"], one["content"])) for one in value
        )
    return bool(value)


def size(value: Any) -> int:
    if isinstance(value, dict):
        return size(value["content"])
    if isinstance(value, list):
        return sum(map(size, value))
    return 4 if isinstance(value, int) else len((value or "").encode())


@given(CASES, st.integers(0, 3))
def test_rows_are_what_they_are(case: tuple[Any, list[Any]], start: int) -> None:
    kind, values = case
    column, values = pa.array(values, kind)[start:], values[start:]
    told = texts.read(column, "c")
    assert [reason is None for reason in told.reasons] == list(map(is_good, values))
    assert told.items == [value for value in values if is_good(value)]
    if not pa.types.is_nested(kind) or pa.types.is_struct(kind.value_type):
        assert texts.sizes(column, "c").tolist() == list(map(size, values))
    else:
        assert texts.sizes(column, "c").tolist() == [4 * len(value or ()) for value in values]


def test_chats_of_one_length() -> None:
    column = pa.array([[{"role": "a", "content": "b"}], None, [{"role": "c", "content": "d"}]], pa.list_(MESSAGE, 1))
    told = texts.read(column[1:], "c")
    assert (told.items, told.reasons) == ([[{"role": "c", "content": "d"}]], ["no messages", None])
    assert texts.sizes(column[1:], "c").tolist() == [0, 1]


def test_what_is_no_utf8_is_no_text() -> None:
    column = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff")])
    assert texts.read(column, "c").reasons == ["no text: its bytes are not UTF-8"]


@pytest.mark.parametrize("kind", [pa.int64(), pa.list_(pa.float32()), pa.list_(pa.struct([("role", pa.string())]))])
def test_what_holds_something_else_is_refused(kind: Any) -> None:
    with pytest.raises(UsageError, match="it must be texts, chats"):
        texts.form_of(kind, "c")
