"""All that is stated of one checkpoint, before anything is decided."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nla_gateway.description import Origin
from nla_gateway.roles import Role
from nla_launch.pair.rules import Rules
from nla_launch.pair.sidecar import Sidecar


@dataclass(frozen=True)
class Stated:
    """Of one checkpoint."""

    role: Literal[Role.AV, Role.AR]
    """A source has no sidecar."""
    folders: Sequence[Path]
    """Where its files are, those that come first first; the weights are in the last."""
    where: Path
    """What a message names: the sidecar, or the folder that has none."""
    sidecar: Sidecar | None
    rules: Rules
    """A preset's."""
    meta: Mapping[str, Any] | None
    """ar_meta.json, where there is one."""
    origin: Origin
    """What the sidecar is called as an origin."""

    @property
    def folder(self) -> Path:
        """Of the weights."""
        return self.folders[-1]
