"""What counts as one text and as several, and which of their tokens are meant."""

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from nla_client import InvalidArgumentError
from nla_client.calls.sources import Chosen, Rendering, as_chosen, as_sources
from nla_client.results.explained import Tokenization
from nla_client.wire import Token
from tests.client.source import words

USER, ANSWER = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}


def told(text: str) -> Tokenization:
    return Tokenization(text, tuple(Token.model_validate(one) for one in words(text, True)), "src")


@pytest.mark.parametrize(
    ("value", "form", "items", "single"),
    [
        ("a b", "texts", ["a b"], True),
        ("", "texts", [""], True),
        (["a", "b"], "texts", ["a", "b"], False),
        (("a",), "texts", ["a"], False),
        (np.array(["a", "b"]), "texts", ["a", "b"], False),
        (pd.Series(["a", "b"]), "texts", ["a", "b"], False),
        (pa.chunked_array([["a"], ["b"]]), "texts", ["a", "b"], False),
        ([USER, ANSWER], "chats", [[USER, ANSWER]], True),
        ([[USER], [USER, ANSWER]], "chats", [[USER], [USER, ANSWER]], False),
        (((USER,),), "chats", [[USER]], False),
        (pd.Series([[USER], [ANSWER]]), "chats", [[USER], [ANSWER]], False),
        (pa.array([[USER], [ANSWER]]), "chats", [[USER], [ANSWER]], False),
        ([1, 2], "token_ids", [[1, 2]], True),
        (range(3), "token_ids", [[0, 1, 2]], True),
        (np.array([1, 2], np.uint8), "token_ids", [[1, 2]], True),
        ([np.int64(7)], "token_ids", [[7]], True),
        ([[1, 2], [3]], "token_ids", [[1, 2], [3]], False),
        (np.array([[1, 2], [3, 4]]), "token_ids", [[1, 2], [3, 4]], False),
        ([np.array([1, 2]), np.array([3])], "token_ids", [[1, 2], [3]], False),
    ],
)
def test_forms(value: Any, form: str, items: Any, single: bool) -> None:
    sources = as_sources(value, Rendering())
    assert (sources.form, list(sources.items), sources.single, sources.count) == (form, items, single, len(items))


def test_tensors_are_token_ids() -> None:
    torch = pytest.importorskip("torch")
    assert as_sources(torch.tensor([1, 2]), Rendering()).items == [[1, 2]]
    assert not as_sources(torch.tensor([[1, 2]]), Rendering()).single


@pytest.mark.parametrize(
    ("value", "match"),
    [
        ([], "text is an empty list: it must be a str, a chat"),
        (np.array([], int), "text is an empty list"),
        ([[]], r"text\[0\] is empty"),
        ([[USER], []], r"text\[1\] is empty"),
        (None, "not a NoneType"),
        (b"ab", "not a bytes"),
        (5, "not a int"),
        (USER, "not a dict"),
        ({"a"}, "not a set"),
        (["a", 1], r"text\[1\] must be a str, a chat or a list of token ids, not 1"),
        (["a", [1]], r"text\[1\] is of the form token_ids, and text\[0\] of the form texts"),
        ([1, "a"], "text must be a str, a chat"),
        ([1.5, 2.5], r"text\[0\] must be"),
        ([True, False], r"text\[0\] must be"),
        (np.array([1.5]), r"text\[0\] must be"),
        ([b"a"], r"text\[0\] must be"),
        ([USER, "a"], r"text\[1\] must be a message with role and content"),
        ([{"role": "user"}], r"text\[0\] must have a 'content' that is a str, not None"),
        ([[USER, {"role": 1, "content": ""}]], r"text\[0\]\[1\] must have a 'role' that is a str, not 1"),
        ([{"role": "user", "content": [{"type": "text"}]}], "must have a 'content' that is a str"),
        (["a", None], r"text\[1\] must be"),
    ],
)
def test_what_is_no_text_is_named(value: Any, match: str) -> None:
    with pytest.raises(InvalidArgumentError, match=match):
        as_sources(value, Rendering())


def test_what_says_how_to_render_goes_with_its_form() -> None:
    plain = Rendering()
    assert plain.fields("texts") == {"add_special_tokens": True}
    assert plain.fields("token_ids") == {}
    assert plain.fields("chats") == {
        "add_generation_prompt": True, "continue_final_message": False, "chat_template_kwargs": None
    }  # fmt: skip
    changed = Rendering(add_special_tokens=False, chat_template_kwargs={"enable_thinking": False})
    assert changed.fields("token_ids") == {
        "add_special_tokens": False,
        "chat_template_kwargs": {"enable_thinking": False},
    }


@pytest.mark.parametrize(
    ("positions", "choices"),
    [
        ("last", [("last", 1)] * 2),
        ("all", [("all", None)] * 2),
        ([3, 1, 3], [([1, 3], 2)] * 2),
        (np.array([3, 1]), [([1, 3], 2)] * 2),
        ([-1, -3], [([-3, -1], 2)] * 2),
        ([0, -1], [([-1, 0], None)] * 2),
        (["content", [5]], [("content", None), ([5], 1)]),
        ([[1], [2, -2]], [([1], 1), ([-2, 2], None)]),
        (("last", "all"), [("last", 1), ("all", None)]),
    ],
)
def test_positions(positions: Any, choices: Any) -> None:
    assert [(one.choice, one.count) for one in as_chosen(positions, 2)] == choices


@pytest.mark.parametrize(
    ("positions", "match"),
    [
        ("first", "positions is 'first': positions must be 'last'"),
        (5, "positions is 5"),
        (None, "positions is None"),
        ([], "positions is empty"),
        ([1.5, 2], r"positions\[0\] is 1.5"),
        ([True, False], r"positions\[0\] is True"),
        (["last"], "positions has 1 entries for 2 texts"),
        ([[1], []], r"positions\[1\] is empty"),
        ([[1], 2], r"positions\[1\] is 2"),
        ([[1], "some"], r"positions\[1\] is 'some'"),
    ],
)
def test_what_are_no_positions(positions: Any, match: str) -> None:
    with pytest.raises(InvalidArgumentError, match=match):
        as_chosen(positions, 2)


def test_positions_are_counted_by_tokens() -> None:
    text = told("one two three")  # four tokens, the first of them the template's
    choices = {"all": [0, 1, 2, 3], "content": [1, 2, 3]}
    for word, places in choices.items():
        assert as_chosen(word, 1)[0].counted(text) == Chosen(0, places, len(places))
    assert as_chosen([0, -1, 3], 1)[0].counted(text) == Chosen(0, [0, 3], 2)
    assert as_chosen([0, -9], 1)[0].counted(text) == Chosen(0, [-9, 0], 2)  # for the server to refuse
    assert as_chosen("last", 1)[0].counted(text) == Chosen(0, "last", 1)
    assert as_chosen("content", 1)[0].counted(told("")) == Chosen(0, "content", 0)


def test_what_is_listed_can_be_cut() -> None:
    assert Chosen(4, [1, 2, 3], 3).cut(2) == [Chosen(4, [1, 2], 2), Chosen(4, [3], 1)]
    assert Chosen(4, [1, 2], 2).cut(2) == [Chosen(4, [1, 2], 2)]
    assert Chosen(4, "last", 1).cut(0) == [Chosen(4, "last", 1)]
