import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from nla_gateway.pair.parsing import OPENING, TAGGED, THINK, THOUGHTS, DeltaParser, Form, Thought, parse


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
UNOPENED = "I put it in <explanation> and </explanation> tags.</think>"
OPEN = Form(thinks=THINK)
MAY = Form(may_think=THINK)
MAY_BARE = Form(tags="none", may_think=THINK)
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
        (f"{UNOPENED}<explanation>cats</explanation>", MAY, True, ("cats", True)),
        (f"{UNOPENED}\ncats</explanation>", MAY, True, ("cats", True)),
        (f"{THOUGHT}<explanation>cats</explanation>", MAY, True, ("cats", True)),
        ("<explanation>the </think> token</explanation>", MAY, True, ("the </think> token", True)),
        ("Here: <explanation>cats</explanation>", MAY, True, ("cats", True)),
        ("cats</explanation>", MAY, True, ("cats", True)),
        ("I put it", MAY, False, ("I put it", False)),
        ("<think>I put it", MAY, False, ("I put it", False)),
        (f"{UNOPENED}cats", MAY, True, ("cats", False)),
        ("hm</think>one", MAY_BARE, True, ("one", True)),
        ("hm</think>one", MAY_BARE, False, ("one", False)),
        ("one", MAY_BARE, True, ("one", True)),
        ("hm</think>one</explanation>", Form(), True, ("hm</think>one", True)),
        ("the [/THINK] token</explanation>", MAY, True, ("the [/THINK] token", True)),
        ("<thinking>one</explanation>", MAY, True, ("<thinking>one", True)),
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


@pytest.mark.parametrize("thought", THOUGHTS, ids=lambda thought: thought.opening)
def test_the_tags_of_all_families(thought: Thought) -> None:
    said = f"I put it in <explanation> tags.{thought.closing}<explanation>cats</explanation>"
    may, inside = Form(may_think=thought), Form(thinks=thought)
    opened = thought.opening + said
    for generated, form in ((said, may), (said, inside), (opened, may), (opened, Form())):
        assert parse(generated, form) == ("cats", True)
        assert feed_all(list(generated), form) == "cats"
    for form in (may, inside):
        assert any(re.search(one, said) for one in form.stops["stop_regex"])


FORMS = [
    *(Form(tags=tags) for tags in ("both", "closing", "none")),
    *(Form(tags=tags, thinks=THINK) for tags in ("both", "closing", "none")),
    *(Form(tags=tags, may_think=THINK) for tags in ("both", "closing", "none")),
    Form(may_think=THOUGHTS[1]),
    Form(thinks=THOUGHTS[1]),
]


@pytest.mark.parametrize("form", FORMS)
@given(
    st.text(alphabet="<>/thinkexplanation ab", max_size=30).filter(lambda thought: "</think>" not in thought),
    st.text(alphabet="<>/abc ", max_size=9),
    st.integers(1, 9),
)
def test_no_thought_is_ever_streamed(form: Form, thought: str, text: str, step: int) -> None:
    block = form.thinks or form.may_think or THINK
    start = "" if form.thinks else block.opening
    generated = f"{start}{thought}{block.closing}<explanation>{text}</explanation>"
    pieces = [generated[i : i + step] for i in range(0, len(generated), step)]
    assert feed_all(pieces, form) == parse(generated, form)[0]


@pytest.mark.parametrize("block", THOUGHTS[:2])
@given(st.text(alphabet="[<>/THINKthinkexplanation ab", max_size=40), st.text(max_size=9), st.integers(1, 9))
def test_no_thought_that_nothing_opens_is_ever_streamed(block: Thought, thought: str, text: str, step: int) -> None:
    assume(block.closing not in thought and not thought.lstrip().startswith((OPENING, block.opening)))
    form, body = Form(may_think=block), text.replace("<", "(")
    for generated in (f"{thought}{block.closing}<explanation>{body}</explanation>", f"{thought}{block.closing}{body}"):
        pieces = [generated[i : i + step] for i in range(0, len(generated), step)]
        assert feed_all(pieces, form) == body.strip()


@given(st.text(alphabet="</think>a ", max_size=20), st.text(alphabet="ab ", max_size=9), st.integers(1, 5))
def test_what_a_stream_could_not_know_is_right_in_the_end(thought: str, text: str, step: int) -> None:
    """Without tags, a thought that nothing opens looks as an explanation does, to its end."""
    assume("</think>" not in thought and not "<think>".startswith(thought.lstrip()[:7]))
    generated, parser = f"{thought}</think>{text}", DeltaParser(MAY_BARE)
    for end in range(step, len(generated), step):
        parser.feed(generated[:end])
    assert any(one.strip().startswith(parser.given) for one in (thought, text))
    assert parse(generated, MAY_BARE, ended=True) == (text.strip(), True)


TAGS = ["<explanation>", "</explanation>", *(tag for one in THOUGHTS[:2] for tag in (one.opening, one.closing))]
PIECES = [*TAGS, "<", "/", "t", " ", "a cat"]


@pytest.mark.parametrize("form", FORMS)
@given(st.lists(st.sampled_from(PIECES), max_size=9))
def test_the_engine_stops_where_an_explanation_is_whole(form: Form, pieces: list[str]) -> None:
    """SGLang looks for strings and patterns in all text so far, after each token."""
    generated = "".join(pieces)
    assume(form.may_think or form.thinks or form.thought(generated) is None)
    stops, text = form.stops, ""
    for piece in pieces:
        text += piece
        found = [one for one in stops.get("stop", []) if one in text]
        found += [one for one in stops.get("stop_regex", []) if re.search(one, text)]
        assert all(form.stopped_by(one) for one in found)
        whole = parse(text, form)[1]
        # What may be a thought yet goes on; should it be none, it is whole at its end.
        assert bool(found) == (whole and not could_be_a_thought(text, form))
        if found:
            return


def could_be_a_thought(text: str, form: Form) -> bool:
    """Whether an answer so far could have begun inside of a thought that nothing opened, and that goes on."""
    block = form.may_think
    if block is None or block.closing in text:
        return False
    return not text.lstrip().startswith(("<explanation>", block.opening))


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
