"""Choices of positions, and remarks on them."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nla_client.wire import Token
from nla_gateway.errors import InvalidRequest
from nla_gateway.pair.positions import choices, choose, names, remark
from nla_gateway.pair.texts import SourceText


def token(position: int, *, special: bool = False, content: bool = True) -> Token:
    return Token(
        position=position, id=1, text="a", start=0, end=1, special=special, message=None, role=None, content=content
    )


def text(kinds: str) -> SourceText:
    """A token a letter: s special, t the template's, c content, S special content."""
    return SourceText("", [token(at, special=kind in "sS", content=kind in "cS") for at, kind in enumerate(kinds)])


@pytest.mark.parametrize(
    ("choice", "chosen"),
    [
        ("last", [4]),
        ("all", [0, 1, 2, 3, 4]),
        ("content", [2, 4]),
        ([3, 0, -2, -5, 3], [0, 3]),
        ([-1], [4]),
    ],
)
def test_choices(choice: Any, chosen: list[int]) -> None:
    assert choose(choice, text("stcSc"), "positions") == chosen


@pytest.mark.parametrize(
    ("choice", "param", "message"),
    [
        ([0, 5], "positions[1][1]", "5 is out of range: the text has 5 tokens, -5 to 4"),
        ([-6], "positions[1][0]", "-6 is out of range"),
        ([], "positions[1]", "no position is chosen"),
        ("content", "positions[1]", "the text has no content"),
    ],
)
def test_mistakes(choice: Any, param: str, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        choose(choice, text("sstSt"), "positions[1]")
    assert caught.value.param == param
    assert message in caught.value.message


def test_one_choice_for_many_texts_names_the_text() -> None:
    with pytest.raises(InvalidRequest, match=r"positions\[0\]: 5 is out of range: texts\[3\] has 5 tokens"):
        choose([5], text("sstSt"), "positions", "texts[3]")


@given(
    choice=st.sampled_from(["last", "all", "content"]) | st.lists(st.integers() | st.integers(-9, 9)),
    kinds=st.text("stcS", min_size=1, max_size=9),
)
def test_any_choice(choice: Any, kinds: str) -> None:
    count = len(kinds)
    nothing = not choice or (choice == "content" and "c" not in kinds)
    if nothing or (isinstance(choice, list) and not all(-count <= position < count for position in choice)):
        with pytest.raises(InvalidRequest):
            choose(choice, text(kinds), "positions")
        return
    chosen = choose(choice, text(kinds), "positions")
    assert chosen
    assert chosen == sorted(set(chosen))
    assert set(chosen) <= set(range(count))


@pytest.mark.parametrize(
    ("positions", "each", "params"),
    [
        ("all", ["all", "all"], ["positions", "positions"]),
        ([0, -1], [[0, -1], [0, -1]], ["positions", "positions"]),
        (["last", [3]], ["last", [3]], ["positions[0]", "positions[1]"]),
        ([[], [3]], [[], [3]], ["positions[0]", "positions[1]"]),
    ],
)
def test_one_choice_a_text(positions: Any, each: list[Any], params: list[str]) -> None:
    assert choices(positions, 2) == each
    assert names(positions, 2) == params


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        ([], "the list is empty"),
        ([1, [2]], "are mixed"),
        ([1, "last"], "are mixed"),
        ([[1]], "there are 1 choices and 2 texts"),
        (["last"] * 3, "there are 3 choices and 2 texts"),
    ],
)
def test_lists_that_do_not_fit(positions: Any, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message) as caught:
        choices(positions, 2)
    assert caught.value.param == "positions"


def test_remarks() -> None:
    assert remark(token(10), 100.0, 100.0) is None
    assert remark(token(10), 5.0, None) is None
    assert remark(token(9), 100.0, None) == "among the first 10 positions, whose activations are unlike all others"
    assert remark(token(10, special=True, content=False), 300.0, 100.0) == "a special token"
    assert remark(token(10, content=False), 34.0, 100.0) == "written by the chat template"
    assert remark(token(10), 301.0, 100.0) == "its norm of 301 is far from the layer's usual 100"
    assert remark(token(10), 33.0, 100.0) == "its norm of 33 is far from the layer's usual 100"
    several = remark(token(0, special=True), 12345.6, 100.0)
    assert several == (
        "among the first 10 positions, whose activations are unlike all others; a special token;"
        " its norm of 1.235e+04 is far from the layer's usual 100"
    )
