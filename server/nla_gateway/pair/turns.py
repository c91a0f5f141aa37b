"""To which message each character of a rendered chat belongs, and whether it is the message's or the template's.

Found by rendering: the contents by marks (marks.py), the ends of turns by rendering chats of the same roles with
nothing but marks in them. Knows no template, and no tokens.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from nla_gateway.pair.marks import Marks, Search

RenderAny = Callable[[Sequence[str], Sequence[str]], str | None]
"""Renders roles and contents as a finished chat without a generation prompt; None where the template refuses."""

WITHOUT_DEFAULT: Final = ("system", "developer")
"""Roles before which no template writes a message of its own."""


@dataclass(frozen=True)
class Stretch:
    """Characters that belong together."""

    start: int
    end: int
    message: int | None
    content: bool


@dataclass(frozen=True)
class Chat:
    """A chat, as it was rendered, and how to render others like it."""

    rendered: str
    roles: Sequence[str]
    contents: Sequence[str]
    bos: str | None
    render: Callable[[Sequence[str]], str | None]
    """This chat with other contents."""
    render_any: RenderAny


def stretches(chat: Chat) -> list[Stretch]:
    """Split a rendered chat into stretches that cover it.

    What the template writes has the message that it was written for: the header before a content (with all that the
    template puts there, such as an empty think block), what ends the turn, and what is put into a content. It has none
    where it was written for none, such as a default system prompt, the generation prompt, or a BOS (unless a BOS begins
    every turn), nor where two messages cannot be told apart; nor has a content that cannot be found.
    """
    marks = Marks.absent_from([chat.rendered, *chat.contents, *chat.roles])
    if marks is None:
        return [Stretch(0, len(chat.rendered), None, False)]
    found = Search(chat.rendered, chat.contents, chat.render, marks).locate()
    edges = _Edges(chat, marks)
    split: list[Stretch] = []
    at, before = 0, None
    for message in sorted(found, key=lambda index: (found[index][0], index)):
        spans = [(max(start, at), end) for start, end in found[message] if end >= at]
        if not spans:
            continue
        split += edges.between(before, at, message, spans[0][0])
        at = spans[0][0]
        for start, end in spans:
            split += [Stretch(at, start, message, False), Stretch(start, end, message, True)]
            at = end
        before = message
    split += edges.between(before, at, None, len(chat.rendered))
    return [stretch for stretch in split if stretch.end > stretch.start]


@dataclass(frozen=True)
class _Edges:
    """Splits what stands between two contents into the end of one turn and the header of the next."""

    chat: Chat
    marks: Marks
    _endings: dict[str, str | None] = field(default_factory=dict)

    def between(self, before: int | None, start: int, after: int | None, end: int) -> list[Stretch]:
        """Split what stands between the contents of two messages; None: there is no such message."""
        told = start if before is None else self._end_of_turn(before, start, end)
        header = end
        if after is not None:
            follows = before is not None and after == before + 1 and told is not None
            header = (told or 0) if follows else self._start_of_turn(after, told or start, end)
        ended = start if told is None else told
        return [
            Stretch(start, ended, before, False),
            Stretch(ended, header, None, False),
            Stretch(header, end, after, False),
        ]

    def _end_of_turn(self, message: int, start: int, end: int) -> int | None:
        """Where the turn ends whose content ends at `start`; None where that cannot be told."""
        role = self.chat.roles[message]
        if role not in self._endings:
            first = self.chat.roles.index(role)
            self._endings[role] = self._behind(self.chat.roles[: first + 1])
        ending = self._endings[role]
        return start + len(ending) if ending is not None and self.chat.rendered.startswith(ending, start, end) else None

    def _start_of_turn(self, message: int, start: int, end: int) -> int:
        """Where the turn begins whose content begins at `end`; `end` where that cannot be told."""
        role, text = self.chat.roles[message], self.chat.rendered
        other = "user" if role == "assistant" else "assistant"
        for roles in ([role, other, role], [role, role]):
            header = self._header_of_last(roles)
            if header is not None and text.endswith(header, start, end):
                return end - len(header)
        if message != 0 or start != 0 or role not in WITHOUT_DEFAULT:
            return end
        bos = self.chat.bos
        if not bos or not text.startswith(bos, 0, end) or bos in (self._header_of_last([role, "user"]) or ""):
            return start
        return len(bos)

    def _header_of_last(self, roles: Sequence[str]) -> str | None:
        """What the template writes before the content of the last of some turns, and after the turn before it."""
        ending, between = self._behind(roles[:-1]), self._behind(roles, len(roles) - 2)
        header, mark, _ = (between or "").partition(self.marks.mark(len(roles) - 1))
        return header[len(ending) :] if mark and ending is not None and header.startswith(ending) else None

    def _behind(self, roles: Sequence[str], turn: int = -1) -> str | None:
        """What the template writes behind the content of one of some turns, of which each has a mark for a content."""
        contents = [self.marks.mark(number) for number in range(len(roles))]
        _, mark, behind = (self.chat.render_any(roles, contents) or "").rpartition(contents[turn])
        return behind if mark else None
