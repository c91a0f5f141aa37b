"""Whence each value of a description came, written down as it is chosen."""

from typing import Final, TypeVar

T = TypeVar("T")

PRESET: Final = "preset"
SIDECAR: Final = "sidecar"
ABOVE: Final = "sidecar of a folder above"
DEFAULT: Final = "default"
"""What this form of sidecar always means."""
TEMPLATE: Final = "template"
CONFIG: Final = "config.json"
META: Final = "ar_meta.json"
WEIGHTS: Final = "weights"
FROM_LAYER: Final = "layer + 1"
OTHER: Final = "the reconstructor's sidecar"
ASSUMED: Final = "assumed, for the weights are not here"


class Origins:
    """Chooses values and remembers who stated them."""

    def __init__(self) -> None:
        self.found: dict[str, str] = {}
        """By field, such as `verbalizer.tags`."""

    def take(self, field: str, *candidates: tuple[T | None, str]) -> T | None:
        """Return the first value that is stated, of candidates with their origins; None where none is."""
        for value, origin in candidates:
            if value is not None:
                self.found[field] = origin
                return value
        return None
