"""Whence each value of a description came, written down as it is chosen."""

from typing import TypeVar

from nla_gateway.description import Origin

T = TypeVar("T")


class Origins:
    """Chooses values and remembers who stated them."""

    def __init__(self) -> None:
        self.found: dict[str, Origin] = {}
        """By field, such as `verbalizer.tags`."""

    def take(self, field: str, *candidates: tuple[T | None, Origin]) -> T | None:
        """Return the first value that is stated, of candidates with their origins; None where none is."""
        for value, origin in candidates:
            if value is not None:
                self.found[field] = origin
                return value
        return None
