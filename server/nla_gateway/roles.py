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
