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
RETRY_AFTER_S: Final = 2
"""While a caller's own samples are worked on: nobody knows for how long."""


class Allowance:
    """So much a minute, of which what was spent comes back evenly; at most a minute's worth is there at once.

    Args:
        a_minute: how much.
        clock: seconds.
    """

    def __init__(self, a_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.a_minute, self._clock = a_minute, clock
        self._left, self._at = float(a_minute), clock()

    @property
    def left(self) -> float:
        """What is there now; below zero where more was used than there was, as is known only afterwards of tokens."""
        now = self._clock()
        self._left = min(self.a_minute, self._left + (now - self._at) * self.a_minute / MINUTE_S)
        self._at = now
        return self._left

    def spend(self, count: int) -> None:
        """Take some of it."""
        self._left = self.left - count

    def seconds_until(self, wanted: float) -> float:
        """How long until so much is there; 0 where it is."""
        return max(0.0, wanted - self.left) * MINUTE_S / self.a_minute


class Caller:
    """One who calls.

    Args:
        name: of their key; empty where callers need none.
        share: what they get.
    """

    def __init__(self, name: str, share: Share) -> None:
        self.name, self.share = name, share
        self.in_flight = 0
        """Samples and texts accepted and not yet answered."""
        limits = dict(zip(KINDS, (share.requests_per_minute, share.tokens_per_minute), strict=True))
        self._allowances = {kind: Allowance(limit) for kind, limit in limits.items() if limit is not None}

    def refusal(self) -> RateLimited | None:
        """Count a request, or tell that it is more than they may send now, or that their tokens are used up."""
        for kind, allowance in self._allowances.items():
            if (seconds := allowance.seconds_until(1.0)) > 0:
                message = f"{self.name}: {allowance.a_minute} {kind} a minute, and these are used up: wait"
                return RateLimited(message, exceeded=kind, retry_after_s=math.ceil(seconds))
        if "requests" in self._allowances:
            self._allowances["requests"].spend(1)
        return None

    def use(self, usage: Usage) -> int:
        """Count what the engines read and wrote for them; returns how many tokens count. Cached ones do not."""
        tokens = usage.prompt_tokens - usage.cached_tokens + usage.completion_tokens
        if "tokens" in self._allowances:
            self._allowances["tokens"].spend(tokens)
        return tokens

    @contextmanager
    def hold(self, items: int) -> Iterator[None]:
        """Have so many more samples or texts in flight.

        Raises:
            RateLimited: that is more than they may. A lone request is taken whatever its size, or it could never be.
        """
        most = self.share.max_in_flight
        if most is not None and self.in_flight and self.in_flight + items > most:
            message = f"{self.name}: {self.in_flight} samples and texts are in flight already; at most {most} may be"
            raise RateLimited(message, exceeded="samples", retry_after_s=RETRY_AFTER_S)
        self.in_flight += items
        try:
            yield
        finally:
            self.in_flight -= items

    def headers(self) -> dict[str, str]:
        """Tell, in headers, what may be asked for a minute, and how much of it is left."""
        told = {}
        for kind, allowance in self._allowances.items():
            told[f"x-ratelimit-limit-{kind}"] = f"{allowance.a_minute}"
            told[f"x-ratelimit-remaining-{kind}"] = f"{max(0, math.floor(allowance.left))}"
            told[f"x-ratelimit-reset-{kind}"] = f"{allowance.seconds_until(allowance.a_minute):.3f}s"
        return told


@dataclass
class Exchange:
    """One request, and whose it is."""

    caller: Caller
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
