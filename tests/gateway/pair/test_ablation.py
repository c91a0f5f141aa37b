"""Texts taken apart: any of them into parts that are really there, and known ones into those that a reader sees."""

from typing import get_args

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nla_client.wire import PartKind
from nla_gateway.pair.ablation import Span, split, upto, without

KINDS: tuple[PartKind, ...] = get_args(PartKind)
PIECES = [
    *"aB.!?。！\n\r\t\x0b\x1c\x85\u00a0\u2028\u3000\"'“”‘’„«»‹›「」『』()[]-—*1,;:…।؟é\u0301字ひカー〇กำမြ😀\u200b\u200d",
    "Dr. ", "e.g. ", "J. ", "1. ", "\n\n", "\r\n", ". ", "don’t", "it's", "https://a.b/c",
]  # fmt: skip
texts = st.one_of(st.text(), st.lists(st.sampled_from(PIECES), max_size=40).map("".join))


def parts(text: str, by: PartKind) -> list[str]:
    return [text[part.start : part.end] for part in split(text, by)]


@given(texts)
@example("B\x85.")  # these, sentencex cannot bear as they are
@example(".\x85A\xa0.」)")
def test_parts_of_any_text(text: str) -> None:
    for by in KINDS:
        end, seen = 0, [False] * len(text)
        for part in split(text, by):
            assert end <= part.start < part.end <= len(text), by
            piece = text[part.start : part.end]
            assert piece == piece.strip() != "", by
            end = part.end
            seen[part.start : part.end] = [True] * len(piece)
        left = "".join(char for char, is_seen in zip(text, seen, strict=True) if not is_seen)
        assert by == "quote" or not left.strip(), by


@given(texts)
def test_what_is_left_of_any_text(text: str) -> None:
    for by in KINDS:
        for part in split(text, by):
            left = without(text, part)
            assert "".join(left.split()) == "".join((text[: part.start] + text[part.end :]).split())
            assert len(left) <= len(text) - (part.end - part.start)
            assert text.startswith(upto(text, part))
            assert upto(text, part).endswith(text[part.start : part.end])


@pytest.mark.parametrize(
    ("by", "text", "wanted"),
    [
        ("paragraph", "a\nb\n \t\n\nc\r\n\r\nd", ["a\nb", "c", "d"]),
        ("line", " a \n\nb\r\nc\x85d\u2028e", ["a", "b", "c", "d", "e"]),
        ("sentence", "It is hot, e.g. at Dr. Fry's. Is it? Yes!", ["It is hot, e.g. at Dr. Fry's.", "Is it?", "Yes!"]),
        ("sentence", "One\ngoes on. Two\n\nThree", ["One\ngoes on.", "Two", "Three"]),
        ("sentence", "第一句。第二句！日本語です。", ["第一句。", "第二句！", "日本語です。"]),
        ("sentence", "यह पहला है। वह दूसरा।", ["यह पहला है।", "वह दूसरा।"]),
        ("word", "well-known (if so), don't f(x)", ["well-known", "(if", "so),", "don't", "f(x)"]),
        ("word", "見「新」しい—カメラ。hello世界", ["見", "「新」", "し", "い—", "カメラ。", "hello", "世", "界"]),
        ("word", "วันนี้ 한국어 문장", ["วั", "น", "นี้", "한국어", "문장"]),
        ("word", "مرحبا بالعالم naïve e\u0301te\u0301", ["مرحبا", "بالعالم", "naïve", "e\u0301te\u0301"]),
        ("quote", "the \"one\" and 'it's two' of the dogs' 'bones", ['"one"', "'it's two'"]),
        ("quote", "“a ‘b’ c” ‘don’t go’ «d» ‹e›", ["“a ‘b’ c”", "‘don’t go’", "«d»", "‹e›"]),
        ("quote", "「a『b』」 „c“ ‘d’", ["「a『b』」", "„c“", "‘d’"]),
        ("quote", '5" wide.\n\nThe "second" one.', ['"second"']),
        ("quote", "no quotes, it's plain", []),
    ],
)  # fmt: skip
def test_parts_of_known_texts(by: PartKind, text: str, wanted: list[str]) -> None:
    assert parts(text, by) == wanted


@pytest.mark.parametrize("by", KINDS)
@pytest.mark.parametrize("text", ["", " \n\t ", "\u3000"])
def test_nothing_has_no_parts(by: PartKind, text: str) -> None:
    assert split(text, by) == []


@pytest.mark.parametrize(
    ("by", "text", "wanted"),
    [
        ("word", "a  b c", ["b c", "a  c", "a  b"]),
        ("word", " a b\n", [" b\n", " a\n"]),
        ("sentence", "A one. B two.\n\nC three.", ["B two.\n\nC three.", "A one.\n\nC three.", "A one. B two."]),
        ("paragraph", "a\n\nb\n\n\nc", ["b\n\n\nc", "a\n\n\nc", "a\n\nb"]),
        ("quote", 'a "b", c', ["a , c"]),
        ("line", " all of it ", [""]),
        ("word", "世界", ["界", "世"]),
    ],
)
def test_what_is_left(by: PartKind, text: str, wanted: list[str]) -> None:
    assert [without(text, part) for part in split(text, by)] == wanted


def test_up_to_a_part() -> None:
    assert upto("a b c", Span(2, 3)) == "a b"


HOSTILE = [
    "“",
    "'",
    "(",
    "(a",
    "見",
    "「見",
    "('a ",
    "'a'b",
    "‘a’b",
    '"',
    "«",
    "ー",
    "\n",
    "\u200d",
    "A. ",
    "e\u0301",
    "e.g. ",
]


@pytest.mark.timeout(300)  # what backtracks would take longer than anyone waits
@pytest.mark.parametrize("by", KINDS)
def test_no_text_takes_for_ever(by: PartKind) -> None:
    for piece in HOSTILE:
        text = piece * (20_000 // len(piece))
        assert all(part.end <= len(text) for part in split(text, by))
