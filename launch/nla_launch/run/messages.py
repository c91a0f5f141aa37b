"""What nla-serve and its fork server say to each other: one JSON object a packet, over a pair of local sockets.

Standard library alone: the fork server reads this before anything else.
"""

import json
from dataclasses import asdict, dataclass
from typing import Final, get_args

PACKET_BYTES: Final = 2**20
"""Of one message; an environment is the largest thing in any."""


@dataclass(frozen=True)
class Fork:
    """To the fork server, beside a file descriptor for all output: run `python -m module *arguments` in a fork."""

    module: str
    arguments: list[str]
    environment: dict[str, str]
    """The whole of it."""
    title: str
    """Shown by `ps` instead of the fork server's command line."""


@dataclass(frozen=True)
class Imported:
    """Everything is imported; `unfit` says why nothing can be forked all the same, and is None where it can."""

    unfit: str | None


@dataclass(frozen=True)
class Forked:
    """The answer to a Fork: the process, or why there is none."""

    pid: int | None
    refused: str | None


@dataclass(frozen=True)
class Ended:
    """A forked process has ended; code is negative for the signal that ended it."""

    pid: int
    code: int


Message = Fork | Imported | Forked | Ended
_KINDS: Final[dict[str, type[Message]]] = {kind.__name__: kind for kind in get_args(Message)}


def encode(message: Message) -> bytes:
    """Form a packet."""
    return json.dumps({"kind": type(message).__name__, **asdict(message)}).encode()


def decode(packet: bytes) -> Message:
    """Read a packet."""
    fields = json.loads(packet)
    return _KINDS[fields.pop("kind")](**fields)
