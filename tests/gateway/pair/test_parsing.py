import pytest
from hypothesis import given
from hypothesis import strategies as st

from nla_gateway.pair.parsing import DeltaParser, parse


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


def feed_all(pieces: list[str]) -> str:
    parser, generated, out = DeltaParser(), "", ""
    for piece in pieces:
        generated += piece
        out += parser.feed(generated)
    return out + parser.finish(parse(generated)[0])


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
