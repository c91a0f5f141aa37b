"""Who calls, by the name of their key: their share of the engines, what they may ask for a minute, what they used."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Final

from nla_client.wire import RATE_LIMIT_EXCEEDED_HEADER, Usage
from nla_gateway.errors import RateLimited
from nla_gateway.settings import Share

MINUTE_S: Final = 60.0
KINDS: Final = ("requests", "tokens")
RATE_LIMIT_HEADERS: Final = (
    *(f"x-ratelimit-{what}-{kind}" for kind in KINDS for what in ("limit", "remaining", "reset")),
    RATE_LIMIT_EXCEEDED_HEADER,
)
"""As OpenAI's servers send them; and one of our own, on a refusal, that tells which limit it was."""


class Allowance:
    """So much a minute, of which what was spent comes back evenly; at most a minute's worth is there at once.

    Args:
        a_minute: how much.
        clock: seconds.
    """

    def __init__(self, a_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.a_minute, self._clock = a_minute, clock
        self._left, self._at = float(a_minute), clock()

    def left(self) -> float:
        """Tell what is there now; below zero where more was used than there was: of tokens that is known afterwards."""
        now = self._clock()
        self._left = min(self.a_minute, self._left + (now - self._at) * self.a_minute / MINUTE_S)
        self._at = now
        return self._left

    def spend(self, count: int) -> None:
        """Take some of it."""
        self._left = self.left() - count

    def seconds_until(self, wanted: float) -> float:
        """How long until so much is there; 0 where it is."""
        return max(0.0, wanted - self.left()) * MINUTE_S / self.a_minute


class Caller:
    """One who calls.

    Args:
        name: of their key; empty where callers need none.
        share: what they get.
        gateways: over how many their limits are shared out; each knows of its own part alone.
    """

    def __init__(self, name: str, share: Share, gateways: int = 1) -> None:
        self.name, self.share = name, share
        self.most_in_flight = math.inf if share.max_in_flight is None else math.ceil(share.max_in_flight / gateways)
        """At each kind of a pair's engines."""
        limits = dict(zip(KINDS, (share.requests_per_minute, share.tokens_per_minute), strict=True))
        parts = {kind: math.ceil(limit / gateways) for kind, limit in limits.items() if limit is not None}
        self._allowances = {kind: Allowance(part) for kind, part in parts.items()}

    def refusal(self) -> RateLimited | None:
        """Count a request, or tell that it is more than they may send now, or that their tokens are used up."""
        waits = {kind: allowance.seconds_until(1.0) for kind, allowance in self._allowances.items()}
        kind = max(waits, key=lambda kind: waits[kind], default=None)
        if kind is not None and waits[kind] > 0:
            message = f"{self.name}: {self._allowances[kind].a_minute} {kind} a minute, and these are used up: wait"
            return RateLimited(message, exceeded=kind, retry_after_s=math.ceil(waits[kind]))
        if "requests" in self._allowances:
            self._allowances["requests"].spend(1)
        return None

    def use(self, usage: Usage) -> int:
        """Count what the engines read and wrote for them; returns how many tokens count. Cached ones do not."""
        tokens = usage.prompt_tokens - usage.cached_tokens + usage.completion_tokens
        if "tokens" in self._allowances:
            self._allowances["tokens"].spend(tokens)
        return tokens

    def headers(self) -> dict[str, str]:
        """Tell, in headers, what may be asked for a minute, and how much of it is left."""
        told = {}
        for kind, allowance in self._allowances.items():
            told[f"x-ratelimit-limit-{kind}"] = f"{allowance.a_minute}"
            told[f"x-ratelimit-remaining-{kind}"] = f"{max(0, math.floor(allowance.left()))}"
            told[f"x-ratelimit-reset-{kind}"] = f"{allowance.seconds_until(allowance.a_minute):.3f}s"
        return told


@dataclass
class Exchange:
    """One request, and whose it is."""

    caller: Caller
    model: str = field(default="", init=False)
    """Name of the pair that it is for; empty where it is for none."""
    tokens: int = field(default=0, init=False)
    """What the engines read and wrote for it so far, less what came from their caches."""

    def use(self, usage: Usage) -> None:
        """Count what the engines read and wrote."""
        self.tokens += self.caller.use(usage)


ANYONE: Final = Exchange(Caller("", Share()))
"""Of whoever calls where no request is being answered."""
_EXCHANGE: Final[ContextVar[Exchange]] = ContextVar("exchange", default=ANYONE)


def exchange() -> Exchange:
    """Tell which request is being answered here."""
    return _EXCHANGE.get()


@contextmanager
def answering(one: Exchange) -> Iterator[None]:
    """Have it known, to all that is done within, which request is being answered."""
    token = _EXCHANGE.set(one)
    try:
        yield
    finally:
        _EXCHANGE.reset(token)
