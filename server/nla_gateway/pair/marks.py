"""Where the contents of a chat stand in its rendering: found by rendering it again with marks in the contents.

Knows strings and a function that renders; knows no template. A mark stands where the character after it (before it)
goes. What is found is proved: without the marks, the marked rendering is the real one to the last character, and what
stands between two marks is what stood between them in the content.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Self

Span = tuple[int, int]
Render = Callable[[Sequence[str]], str | None]
"""Renders the chat with other contents; None where the template refuses them."""

CANDIDATES: Final = range(0xF0000, 0xFFFFE)
"""Private characters: no template knows them, and no text is likely to hold one."""
TAG: Final = re.compile(r"<[^<>]{1,64}>|\[/?[A-Z_]{1,32}\]")
"""What a template may take a content apart at, such as </think>."""
MOST_TRIED_ALONE: Final = 32
"""Messages that are tried one by one, each for one more rendering."""


@dataclass(frozen=True)
class Marks:
    """Strings that stand nowhere in a chat, and can be told from each other."""

    character: str

    @classmethod
    def absent_from(cls, texts: Iterable[str]) -> Self | None:
        """Choose them; None for texts that hold every candidate."""
        present = set[str]().union(*texts)
        free = (chr(code) for code in CANDIDATES if chr(code) not in present)
        character = next(free, None)
        return None if character is None else cls(character)

    def mark(self, number: int) -> str:
        """Make one of them."""
        return f"{self.character}{number}{self.character}"

    def around(self, content: str, pieces: Sequence[Span], first: int) -> str:
        """Put marks before and after each piece of a content, numbered from `first` on."""
        done, at = [], 0
        for number, (start, end) in enumerate(pieces):
            opening, closing = self.mark(first + 2 * number), self.mark(first + 2 * number + 1)
            done += [content[at:start], opening, content[start:end], closing]
            at = end
        return "".join([*done, content[at:]])

    def taken_out(self, rendered: str) -> tuple[str, dict[int, int]]:
        """Split a rendering into its text without marks and the place there of each mark that came once."""
        parts = re.split(f"{self.character}([0-9]+){self.character}", rendered)
        places: dict[int, list[int]] = {}
        at = 0
        for text, number in zip(parts[::2], parts[1::2], strict=False):
            at += len(text)
            places.setdefault(int(number), []).append(at)
        return "".join(parts[::2]), {number: found[0] for number, found in places.items() if len(found) == 1}


@dataclass(frozen=True)
class _Stands:
    """A piece of a content, and where it stands in the rendering."""

    piece: Span
    span: Span


def _whole(content: str) -> list[Span]:
    return [(0, len(content))]


def _core(content: str) -> list[Span]:
    """Without white space around it, for templates that strip."""
    start = len(content) - len(content.lstrip())
    return [(start, max(start, len(content.rstrip())))]


def _from_the_left(content: str) -> list[Span]:
    return [(_core(content)[0][0], len(content))]


def _from_the_right(content: str) -> list[Span]:
    return [(0, len(content.rstrip()))]


def _parts(content: str) -> list[Span]:
    """Between tags, without white space around, for templates that take contents apart."""
    edges = [0, *(edge for tag in TAG.finditer(content) for edge in tag.span()), len(content)]
    between = list(zip(edges[::2], edges[1::2], strict=True))
    cores = [(start + a, start + b) for start, end in between for a, b in _core(content[start:end])]
    return [(start, end) for start, end in cores if end > start]


WAYS: Final = (_whole, _from_the_left, _from_the_right, _core, _parts)
"""From the most to the least of a content: the first that holds is what the template keeps."""


@dataclass(frozen=True)
class Search:
    """A chat's rendering, in which its contents are looked for."""

    rendered: str
    contents: Sequence[str]
    render: Render
    marks: Marks

    def locate(self) -> dict[int, list[Span]]:
        """Find the contents of a chat in its rendering.

        Returns:
            Of each message whose content was found, its spans in order: one, except where the template puts something
            into it or takes something out; an empty one for an empty content. Messages that are missing are not
            rendered, or cannot be told from what is around them.
        """
        found: dict[int, list[Span]] = {}
        tried: dict[int, list[list[Span]]] = {index: [] for index in range(len(self.contents))}
        for way in WAYS:
            left = {index: way(self.contents[index]) for index in tried if index not in found}
            left = {index: pieces for index, pieces in left.items() if pieces and pieces not in tried[index]}
            for index, pieces in left.items():
                tried[index].append(pieces)
            for index, stands in self._attempts(left):
                if stands:
                    found[index] = self._joined(index, stands)
        for index in tried:
            if index not in found and (span := self._searched(index, found)):
                found[index] = [span]
        return found

    def _attempts(self, pieces: Mapping[int, list[Span]]) -> Iterable[tuple[int, list[_Stands]]]:
        """Mark all messages at once; where that changes what the template does, each alone."""
        together = self._attempt(pieces)
        if together is None and 1 < len(pieces) <= MOST_TRIED_ALONE:
            alone = (self._attempt({index: of}) for index, of in pieces.items())
            return [stands for one in alone if one for stands in one.items()]
        return (together or {}).items()

    def _attempt(self, pieces: Mapping[int, list[Span]]) -> dict[int, list[_Stands]] | None:
        """Mark pieces of some contents; None where marks change what the template does."""
        if not pieces:
            return {}
        marked, numbers, number = list(self.contents), dict[int, int](), 0
        for index, of in pieces.items():
            marked[index] = self.marks.around(self.contents[index], of, number)
            numbers[index] = number
            number += 2 * len(of)
        bare, places = self.marks.taken_out(self.render(marked) or "")
        if bare != self.rendered:
            return None
        return {index: self._standing(index, of, places, numbers[index]) for index, of in pieces.items()}

    def _standing(self, index: int, pieces: Sequence[Span], places: Mapping[int, int], number: int) -> list[_Stands]:
        """Keep the pieces that stand in the rendering as they do in the content."""
        kept = []
        for at, piece in enumerate(pieces):
            start, end = places.get(number + 2 * at), places.get(number + 2 * at + 1)
            if (
                start is not None
                and end is not None
                and self.rendered[start:end] == self.contents[index][slice(*piece)]
            ):
                kept.append(_Stands(piece, (start, end)))
        return kept

    def _joined(self, index: int, stands: Sequence[_Stands]) -> list[Span]:
        """Add what stands around and between the pieces, where it is the content's to the letter."""
        rendered, content, spans = self.rendered, self.contents[index], [stands[0].span]
        for before, after in pairwise(stands):
            if rendered[before.span[1] : after.span[0]] == content[before.piece[1] : after.piece[0]]:
                spans[-1] = (spans[-1][0], after.span[1])
            else:
                spans.append(after.span)
        prefix, suffix = content[: stands[0].piece[0]], content[stands[-1].piece[1] :]
        if prefix.strip() and rendered.endswith(prefix, 0, spans[0][0]):
            spans[0] = (spans[0][0] - len(prefix), spans[0][1])
        if suffix.strip() and rendered.startswith(suffix, spans[-1][1]):
            spans[-1] = (spans[-1][0], spans[-1][1] + len(suffix))
        return spans

    def _searched(self, index: int, found: Mapping[int, list[Span]]) -> Span | None:
        """Look for a content that bears no marks, between those of its neighbours: it must be there once."""
        content, mark = self.contents[index], self.marks.mark(0)
        replaced = [mark if at == index else other for at, other in enumerate(self.contents)]
        if not content.strip() or mark not in (self.render(replaced) or ""):
            return None  # the template leaves the message out: whatever looks like it is something else
        low = max((spans[-1][1] for at, spans in found.items() if at < index), default=0)
        high = min((spans[0][0] for at, spans in found.items() if at > index), default=len(self.rendered))
        for form in (content, content.strip()):
            start = self.rendered.find(form, low, high)
            if start >= 0:
                return None if self.rendered.find(form, start + 1, high) >= 0 else (start, start + len(form))
        return None
