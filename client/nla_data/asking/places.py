"""Which tokens of a text are read: as it was asked for, and drawn by seed and row alone. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self, cast, get_args

import numpy as np

from nla_client.wire import PositionWord, Token
from nla_data.errors import UsageError

MIN_POSITION: Final = 50
"""Where drawing begins: earlier tokens have seen little of the text."""
_RANDOM: Final = "random:"
_CHOICES: Final = "last, all, content, random:N, or numbers such as 0,5,-1"


class NoPlaceError(ValueError):
    """A text without the tokens that were asked for; its text says why."""


@dataclass(frozen=True)
class Choice:
    """Which tokens are meant.

    Attributes:
        word: `last`, `all` or `content`; None for numbers or a draw.
        numbers: From 0, or negative from the end.
        draws: How many are drawn; 0 for no draw.
        least: The first position that may be drawn.
    """

    word: PositionWord | None = None
    numbers: tuple[int, ...] = ()
    draws: int = 0
    least: int = MIN_POSITION

    @classmethod
    def of(cls, text: str, least: int | None) -> Self:
        """Read what was asked for.

        Raises:
            UsageError: none of the forms, or a least position without a draw.
        """
        if text.startswith(_RANDOM):
            count = text.removeprefix(_RANDOM)
            if not count.isdecimal() or not int(count):
                raise UsageError(f"positions {text!r}: random:N draws N of a text's tokens, at least 1")
            return cls(draws=int(count), least=MIN_POSITION if least is None else least)
        if least is not None:
            raise UsageError(f"a least position goes with random:N, not with {text!r}: leave out --min-position")
        if text in get_args(PositionWord):
            return cls(word=cast(PositionWord, text))
        try:
            numbers = tuple(dict.fromkeys(int(part) for part in text.split(",")))
        except ValueError:
            raise UsageError(f"positions {text!r}: must be {_CHOICES}") from None
        return cls(numbers=numbers)

    @property
    def sent(self) -> PositionWord | list[int]:
        """As the server takes it, where it is no draw."""
        return self.word or list(self.numbers)

    @property
    def count(self) -> int | None:
        """Most of them in a text; None where that depends on its length."""
        return 1 if self.word == "last" else None if self.word else self.draws or len(self.numbers)

    def positions(self, tokens: Sequence[Token], seed: int, number: int) -> list[int]:
        """Those of a text, ascending, each once.

        Args:
            tokens: All of the text's.
            seed: Of the run.
            number: The row's: with the seed it decides what is drawn, and nothing else does.

        Raises:
            NoPlaceError: it has none of them.
        """
        size = len(tokens)
        match self.word:
            case "last":
                found = [size - 1] if size else []
            case "all":
                found = list(range(size))
            case "content":
                found = [token.position for token in tokens if token.content and not token.special]
            case _:
                found = self._drawn(tokens, seed, number) if self.draws else self._counted(size)
        if not found:
            raise NoPlaceError("the text has no content" if self.word == "content" else "the text has no tokens")
        return found

    def _counted(self, size: int) -> list[int]:
        beyond = [number for number in self.numbers if not -size <= number < size]
        if beyond:
            raise NoPlaceError(f"position {beyond[0]} is out of range: the text has {size} tokens")
        return sorted({number % size for number in self.numbers})

    def _drawn(self, tokens: Sequence[Token], seed: int, number: int) -> list[int]:
        """As the public trainer draws: special tokens are left out, and of a short text all others are taken."""
        there = [token.position for token in tokens[self.least :] if not token.special]
        if not there:
            raise NoPlaceError(f"the text has {len(tokens)} tokens, none to draw from position {self.least} on")
        drawn = np.random.default_rng([seed, number]).permutation(len(there))[: self.draws]
        return sorted(there[k] for k in drawn)
