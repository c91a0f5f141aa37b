"""What the user asked for, pair by pair."""

import argparse
from dataclasses import dataclass

from nla_gateway.roles import Role
from nla_launch.pair.preset import Preset
from nla_launch.plan.elsewhere import NOWHERE, Elsewhere


@dataclass(frozen=True)
class Asked:
    """One pair."""

    preset: Preset
    """What it is."""
    arguments: argparse.Namespace
    """How it is to be served, as the command line's flags have it."""
    elsewhere: Elsewhere = NOWHERE
    """Its engines of other machines."""
    given_name: str | None = None
    """None: that of the preset."""
    alone: bool = True
    """Whether it is the only one."""

    @property
    def name(self) -> str:
        """As `model` in requests has it."""
        return self.given_name or self.preset.name

    @property
    def called(self) -> str | None:
        """What tells it from the other pairs; None where there are none."""
        return None if self.alone else self.name

    @property
    def prefix(self) -> str:
        """What messages of it begin with."""
        return "" if self.called is None else f"{self.called}: "

    def label(self, role: Role) -> str:
        """What messages call its engines of a role."""
        return role.of(self.called)
