"""Texts taken apart, and what is left of them. Knows characters; knows nothing of vectors, tokens or engines."""

from collections.abc import Callable, Iterator
from itertools import groupby
from typing import Final, NamedTuple

import regex
from sentencex import get_sentence_boundaries

from nla_client.wire import PartKind

LANGUAGE: Final = "en"
"""Nobody says which it is: this one's abbreviations are known, and the full stops of all scripts."""
SPACE: Final = r"\s\x1c-\x1f"
SPACE_BUT_LINE_END: Final = regex.compile(rf"[[{SPACE}]--\n]", regex.VERSION1)
RUN: Final = regex.compile(rf"[^{SPACE}]++", regex.VERSION1)
UNSPACED: Final = regex.compile(
    r"""
    (?<! [\p{Ps}\p{Pi}] ) [\p{Ps}\p{Pi}]*+
    (?: [\p{Katakana}ー]++ \p{M}*+ | (?= [\p{Han}\p{Hiragana}\p{Bopomofo}\p{Line_Break=SA}] ) \X )
    [\p{Pe}\p{Pf}\p{Po}\p{Pd}]*+
    """,
    regex.VERBOSE | regex.VERSION1,
)
"""A character, or a run of katakana, in scripts written without spaces; with the punctuation that stands at it."""
QUOTE: Final = regex.compile(
    r"""
    " [^"]* " | “ [^“”]* ” | „ [^„“”]* [“”] | « [^«»]* » | ‹ [^‹›]* › | 「 [^「」]* 」 | 『 [^『』]* 』
    # Between letters that have a case stand apostrophes.
    | ‘ (?: [^‘’] | (?<=[\p{Lu}\p{Ll}]) ’ (?=[\p{Lu}\p{Ll}]) )*+ ’
    | (?<!\w) ' (?!\s) (?: [^'] | (?<=[\p{Lu}\p{Ll}]) ' (?=[\p{Lu}\p{Ll}]) )*+ (?<!\s) ' (?!\w)
    """,
    regex.VERBOSE | regex.VERSION1,
)


class Span(NamedTuple):
    """Characters of a text, from start up to end."""

    start: int
    end: int


def split(text: str, by: PartKind) -> list[Span]:
    """Take a text apart.

    Parts are in order and do not overlap, and begin and end with a character that is no white space. Of paragraphs,
    lines, sentences and words no such character is left out. Kinds:
        paragraph: lines that no blank one divides.
        line: up to a line end of any kind, as `str.splitlines` has it.
        sentence: within a paragraph, over line ends.
        word: up to white space; in scripts that are written without it, a character.
        quote: within a paragraph, with its marks; of quotes in quotes the outer one.
    """
    spans = (_stripped(text, span) for span in SPLITTERS[by](text))
    return [span for span in spans if span.start < span.end]


def without(text: str, part: Span) -> str:
    """Leave a part out, and all else as it was, but for white space.

    Of the white space before and behind the part one run stays: the one with more line ends, else the longer, else the
    first. Where the part was the first or the last, only what the text itself began or ended with stays, and where it
    was all, nothing does.
    """
    before, behind = text[: part.start], text[part.end :]
    head, tail = before.rstrip(), behind.lstrip()
    left, right = before[len(head) :], behind[: len(behind) - len(tail)]
    if not head and not tail:
        return ""
    if not head:
        return left + tail
    if not tail:
        return head + right
    return head + max(left, right, key=lambda run: (len(run.splitlines()), len(run))) + tail


def upto(text: str, part: Span) -> str:
    """Cut a text behind a part."""
    return text[: part.end]


def _stripped(text: str, span: Span) -> Span:
    piece = text[span.start : span.end]
    start = span.start + len(piece) - len(piece.lstrip())
    return Span(start, start + len(piece.strip()))


def _lines(text: str) -> Iterator[Span]:
    start = 0
    for line in text.splitlines(keepends=True):
        yield Span(start, start + len(line))
        start += len(line)


def _paragraphs(text: str) -> Iterator[Span]:
    for blank, group in groupby(_lines(text), lambda line: text[line.start : line.end].isspace()):
        lines = list(group)
        if not blank:
            yield Span(lines[0].start, lines[-1].end)


def _sentences(text: str) -> Iterator[Span]:
    # One character for one: before some initials, sentencex cannot bear a space of several bytes.
    plain = SPACE_BUT_LINE_END.sub(" ", text)
    for start, end in _paragraphs(text):
        for found in get_sentence_boundaries(LANGUAGE, plain[start:end]):
            yield Span(start + found["start_index"], start + found["end_index"])


def _words(text: str) -> Iterator[Span]:
    for run in RUN.finditer(text):
        start, end = run.span()
        for unspaced in UNSPACED.finditer(text, start, end):
            yield Span(start, unspaced.start())
            yield Span(*unspaced.span())
            start = unspaced.end()
        yield Span(start, end)


def _quotes(text: str) -> Iterator[Span]:
    # In each paragraph by itself: what is never closed takes no other's marks.
    for start, end in _paragraphs(text):
        yield from (Span(*found.span()) for found in QUOTE.finditer(text, start, end))


SPLITTERS: Final[dict[PartKind, Callable[[str], Iterator[Span]]]] = {
    "paragraph": _paragraphs,
    "line": _lines,
    "sentence": _sentences,
    "word": _words,
    "quote": _quotes,
}
