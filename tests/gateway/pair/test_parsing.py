import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from nla_gateway.pair.parsing import TAGGED, DeltaParser, Form, parse


@pytest.mark.parametrize(
    ("generated", "expected"),
    [
        ("<explanation> a cat </explanation>", ("a cat", True)),
        ("<explanation>\nhalf", ("half", False)),
        ("no tags at all", ("no tags at all", False)),
        ("before <explanation>in</explanation> after", ("in", True)),
        ("only the end</explanation>", ("only the end", True)),
        ("", ("", False)),
        ("<explanation></explanation>", ("", True)),
    ],
)
def test_parse(generated: str, expected: tuple[str, bool]) -> None:
    assert parse(generated) == expected


THOUGHT = "<think>I put it in <explanation> tags.</think>"
OPEN = Form(thinks=True)
BARE = Form(tags="none")
CLOSED = Form(tags="closing")


@pytest.mark.parametrize(
    ("generated", "form", "ended", "expected"),
    [
        (f"{THOUGHT}<explanation>cats</explanation>", Form(), True, ("cats", True)),
        (f"\n{THOUGHT}\n\ncats</explanation>", Form(), True, ("cats", True)),
        (f"{THOUGHT}<explanation>the </think> token</explanation>", Form(), True, ("the </think> token", True)),
        ("<explanation>the </think> token</explanation>", Form(), True, ("the </think> token", True)),
        ("tags, <explanation>.\n</think>\n<explanation>cats</explanation>", OPEN, True, ("cats", True)),
        ("still thinking <explanation>", OPEN, False, ("still thinking <explanation>", False)),
        ("<think>still thinking", Form(), False, ("still thinking", False)),
        ("one\ntwo", BARE, True, ("one\ntwo", True)),
        ("one\ntwo", BARE, False, ("one\ntwo", False)),
        ("one\ntwo", Form(), True, ("one\ntwo", False)),
        ("<think>hm</think>one", BARE, True, ("one", True)),
        ("<think>hm", BARE, True, ("hm", False)),
        ("<explanation>one</explanation>", BARE, False, ("one", True)),
        ("one</explanation> two", CLOSED, True, ("one", True)),
        ("the <explanation> tag</explanation>", CLOSED, True, ("the <explanation> tag", True)),
        ("\n<explanation>one</explanation>", CLOSED, True, ("one", True)),
        ("one", CLOSED, True, ("one", False)),
        ("<think>hm</think>one</explanation>", CLOSED, True, ("one", True)),
    ],
)
def test_answers_that_think_or_have_no_tags(
    generated: str, form: Form, ended: bool, expected: tuple[str, bool]
) -> None:
    assert parse(generated, form, ended=ended) == expected


def feed_all(pieces: list[str], form: Form = TAGGED) -> str:
    parser, generated, out = DeltaParser(form), "", ""
    for piece in pieces:
        generated += piece
        out += parser.feed(generated)
    return out + parser.finish(parse(generated, form)[0])


@pytest.mark.parametrize("form", [Form(), OPEN, BARE, CLOSED, Form(tags="none", thinks=True)])
@given(
    st.text(alphabet="<>/thinkexplanation ab", max_size=30).filter(lambda thought: "</think>" not in thought),
    st.text(alphabet="<>/abc ", max_size=9),
    st.integers(1, 9),
)
def test_no_thought_is_ever_streamed(form: Form, thought: str, text: str, step: int) -> None:
    start = "" if form.thinks else "<think>"
    generated = f"{start}{thought}</think><explanation>{text}</explanation>"
    pieces = [generated[i : i + step] for i in range(0, len(generated), step)]
    assert feed_all(pieces, form) == parse(generated, form)[0]


PIECES = ["<think>", "</think>", "<explanation>", "</explanation>", "<", "/", "t", " ", "a cat"]


@pytest.mark.parametrize("form", [Form(), Form(may_think=True), OPEN, CLOSED, Form(tags="closing", thinks=True)])
@given(st.lists(st.sampled_from(PIECES), max_size=9))
def test_the_engine_stops_where_an_explanation_is_whole(form: Form, pieces: list[str]) -> None:
    """SGLang looks for strings and patterns in all text so far, after each token."""
    thinks = form.thinks or "".join(pieces).lstrip().startswith("<think>")
    assume(form.may_think or form.thinks or not thinks)
    # So near each other, they are not told apart; a text that only begins as tags do is not known by its beginning.
    assume(not re.match(r"\s*<(?!/?explanation>|think>)", "".join(pieces)))
    stops, text = form.stops, ""
    for piece in pieces:
        text += piece
        found = [one for one in stops.get("stop", []) if one in text]
        found += [one for one in stops.get("stop_regex", []) if re.search(one, text)]
        assert bool(found) == parse(text, form)[1]
        assert all(form.stopped_by(one) for one in found)
        if found:
            return


@given(st.text(), st.booleans(), st.integers(1, 7))
def test_deltas_join_to_the_explanation(text: str, closed: bool, step: int) -> None:
    body = text.replace("<", "(")
    generated = f"<explanation>{body}" + ("</explanation>" if closed else "")
    pieces = [generated[i : i + step] for i in range(0, len(generated), step)]
    assert feed_all(pieces) == parse(generated)[0]


@given(st.text(alphabet="<>/explanation ab", max_size=40), st.integers(1, 5))
def test_deltas_never_show_more_than_the_explanation(text: str, step: int) -> None:
    generated = f"<explanation>{text}</explanation>"
    pieces = [generated[i : i + step] for i in range(0, len(generated), step)]
    assert feed_all(pieces) == parse(generated)[0]


def test_deltas_without_tags_come_at_once() -> None:
    parser = DeltaParser()
    assert parser.feed("plain") == "plain"
    assert parser.feed("plain words ") == " words"


@given(st.text(alphabet="<>/explanation ab", max_size=30), st.booleans(), st.integers(1, 5))
def test_deltas_of_answers_that_the_prompt_opens(text: str, closed: bool, step: int) -> None:
    generated = text.replace("</explanation>", "") + ("</explanation>" if closed else "")
    pieces = [generated[i : i + step] for i in range(0, len(generated), step)]
    assert feed_all(pieces, CLOSED) == parse(generated, CLOSED)[0]
