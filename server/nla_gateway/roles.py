"""The kinds of engines. Whatever depends on the kind is a mapping by role or a `match`, and names all of them."""

from enum import StrEnum
from typing import assert_never


class Role(StrEnum):
    """What a checkpoint is for, in the spelling of sidecars, presets and flags."""

    AV = "av"
    AR = "ar"
    SOURCE = "source"

    @property
    def label(self) -> str:
        """What its engine is called in messages, in metrics and at `/ready`."""
        match self:
            case Role.AV:
                return "verbalizer"
            case Role.AR:
                return "reconstructor"
            case Role.SOURCE:
                return "source"
            case _:
                assert_never(self)

    def of(self, pair: str | None) -> str:
        """Call it by the pair's name, too, where there are several pairs."""
        return self.label if pair is None else f"{pair} {self.label}"
