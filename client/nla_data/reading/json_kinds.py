"""What a column of JSON lines holds, learnt from all of its values: the Arrow type that keeps each as it is. Pure.

Libraries decide by the first rows, read dates into texts, and round integers that stand beside fractions: not this.
"""

from collections.abc import Sequence
from typing import Any, Final

import pyarrow as pa

_WHOLE: Final = 2**53
"""Up to here a float holds every integer."""
_BEYOND: Final = 2.0**63
"""From here on an integer may have been read as a float."""
_NAMES: Final = {bool: "true or false", int: "numbers", float: "numbers", str: "texts", list: "lists", dict: "objects"}


class MixedError(ValueError):
    """Values that no one type keeps as they are; its text says why."""


class Seen:
    """The values of one place so far."""

    def __init__(self) -> None:
        self.kinds: set[type] = set()
        self._least = self._most = 0
        self._item: Seen | None = None
        self._fields: dict[str, Seen] = {}

    def add(self, value: Any) -> None:
        """One more value."""
        kind = type(value)
        self.kinds.add(kind)
        if kind is int:
            self._least, self._most = min(self._least, value), max(self._most, value)
        elif kind is list:
            self._item = self._item or Seen()
            self._item.add_all(value)
        elif kind is dict:
            for name, inner in value.items():
                self._fields.setdefault(name, Seen()).add(inner)

    def add_all(self, values: Sequence[Any]) -> None:
        """The items of a list."""
        kinds = set(map(type, values))
        if kinds <= {float}:
            self.kinds |= kinds
        elif kinds <= {int}:
            self.kinds |= kinds
            self._least, self._most = min(self._least, min(values)), max(self._most, max(values))  # noqa: PLW3301
        else:
            for value in values:
                self.add(value)

    def add_vector(self, value: Any) -> None:
        """A list of numbers that are floats to the reader: how large its integers are does not matter."""
        kinds = set(map(type, value)) if type(value) is list else {str}
        if kinds <= {float, int}:
            self.kinds.add(list)
            self._item = self._item or Seen()
            self._item.kinds.add(float)
        else:
            self.add(value)

    def kind(self) -> pa.DataType:
        """The type that keeps them all.

        Raises:
            MixedError: there is none.
        """
        kinds = self.kinds - {type(None)}
        if not kinds:
            return pa.null()
        if kinds <= {int, float}:
            return self._number(kinds)
        if len(kinds) > 1:
            raise MixedError("holds " + " and ".join(sorted({_NAMES[kind] for kind in kinds})))
        kind = kinds.pop()
        if kind is list:
            return pa.list_(self._item.kind() if self._item else pa.null())
        if kind is dict:
            return pa.struct([(name, seen.kind()) for name, seen in self._fields.items()])
        return {bool: pa.bool_(), str: pa.string()}[kind]

    def _number(self, kinds: set[type]) -> pa.DataType:
        if float in kinds:
            if int in kinds and max(self._most, -self._least) > _WHOLE:
                raise MixedError("holds integers above 2^53 beside numbers with fractions, which would round them")
            return pa.float64()
        if self._least >= -(2**63) and self._most < 2**63:
            return pa.int64()
        if self._least >= 0 and self._most < 2**64:
            return pa.uint64()
        raise MixedError("holds integers of more than 64 bits")


def may_be_rounded(value: Any) -> bool:
    """Whether there is a float so large that it may have been an integer in the text."""
    if type(value) is float:
        return abs(value) >= _BEYOND
    if type(value) is list:
        if set(map(type, value)) <= {float}:
            return bool(value) and (max(value) >= _BEYOND or min(value) <= -_BEYOND)
        return any(map(may_be_rounded, value))
    return type(value) is dict and any(map(may_be_rounded, value.values()))
