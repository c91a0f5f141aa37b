"""The kinds of engines. Whatever depends on the kind is a mapping by role or a `match`, and names all of them."""

from enum import StrEnum
from typing import assert_never


class Role(StrEnum):
    """What a checkpoint is trained for, in the spelling of sidecars, presets and flags."""

    AV = "av"
    AR = "ar"

    @property
    def label(self) -> str:
        """What its engine is called in messages, in metrics and at `/ready`."""
        match self:
            case Role.AV:
                return "verbalizer"
            case Role.AR:
                return "reconstructor"
            case _:
                assert_never(self)
