"""Who calls, by the name of their key: their share of the engines, what they may ask for a minute, what they used."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Final

from nla_client.wire import RATE_LIMIT_EXCEEDED_HEADER, Usage
from nla_gateway.errors import RateLimited
from nla_gateway.ledger import Ledger
from nla_gateway.settings import Access, Share

MINUTE_S: Final = 60.0
NS: Final = 10**9
"""In a second."""
NEVER: Final = 2**62
"""More than any clock tells."""
REQUESTS: Final = "requests"
TOKENS: Final = "tokens"
KINDS: Final = (REQUESTS, TOKENS)
RATE_LIMIT_HEADERS: Final = (
    *(f"x-ratelimit-{what}-{kind}" for kind in KINDS for what in ("limit", "remaining", "reset")),
    RATE_LIMIT_EXCEEDED_HEADER,
)
"""As OpenAI's servers send them; and one of our own, on a refusal, that tells which limit it was."""


class Allowance:
    """So much a minute, of which what was spent comes back evenly; at most a minute's worth is there at once.

    What is kept is the time at which all of it is back: one number, which gateways can share (GCRA).

    Args:
        a_minute: how much.
        ledger: where that time stands, in nanoseconds of the machine's monotonic clock.
        entry: at which place.
        clock: seconds.
    """

    def __init__(self, a_minute: int, ledger: Ledger, entry: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.a_minute, self._ledger, self._entry, self._clock = a_minute, ledger, entry, clock
        self._each_ns = MINUTE_S * NS / a_minute

    def left(self) -> float:
        """Tell what is there now; below zero where more was used than there was: of tokens that is known afterwards."""
        return self.a_minute - max(0.0, self._ledger[self._entry] - self._clock() * NS) / self._each_ns

    def spend(self, count: int) -> None:
        """Take some of it."""
        with self._ledger.held(self._entry):
            self._spend(count)

    def take(self) -> bool:
        """Take one of it, if there is one."""
        with self._ledger.held(self._entry):
            if self.seconds_until(1.0) > 0:
                return False
            self._spend(1)
            return True

    def seconds_until(self, wanted: float) -> float:
        """How long until so much is there; 0 where it is."""
        return max(0.0, wanted - self.left()) * MINUTE_S / self.a_minute

    def _spend(self, count: int) -> None:
        back = max(self._ledger[self._entry], round(self._clock() * NS))
        self._ledger[self._entry] = min(back + round(count * self._each_ns), NEVER)


class Caller:
    """One who calls.

    Args:
        name: of their key; empty where callers need none.
        share: what they get.
        allowances: what they may ask for a minute, by its kind.
        gateways: over how many their places are shared out; each knows of its own part alone.
    """

    def __init__(
        self, name: str, share: Share, allowances: Mapping[str, Allowance] | None = None, gateways: int = 1
    ) -> None:
        self.name, self.share = name, share
        self.most_in_flight = math.inf if share.max_in_flight is None else math.ceil(share.max_in_flight / gateways)
        """At each kind of a pair's engines."""
        self._allowances = dict(allowances or {})

    def refusal(self) -> RateLimited | None:
        """Count a request, or tell that it is more than they may send now, or that their tokens are used up."""
        waits = {kind: allowance.seconds_until(1.0) for kind, allowance in self._allowances.items()}
        if not any(waits.values()):
            requests = self._allowances.get(REQUESTS)
            if requests is None or requests.take():
                return None
            waits[REQUESTS] = requests.seconds_until(1.0)  # another gateway was faster
        kind = max(waits, key=lambda kind: waits[kind])
        message = f"{self.name}: {self._allowances[kind].a_minute} {kind} a minute, and these are used up: wait"
        return RateLimited(message, exceeded=kind, retry_after_s=max(1, math.ceil(waits[kind])))

    def use(self, usage: Usage) -> int:
        """Count what the engines read and wrote for them; returns how many tokens count. Cached ones do not."""
        tokens = usage.prompt_tokens - usage.cached_tokens + usage.completion_tokens
        if TOKENS in self._allowances:
            self._allowances[TOKENS].spend(tokens)
        return tokens

    def headers(self) -> dict[str, str]:
        """Tell, in headers, what may be asked for a minute, and how much of it is left."""
        told = {}
        for kind, allowance in self._allowances.items():
            told[f"x-ratelimit-limit-{kind}"] = f"{allowance.a_minute}"
            told[f"x-ratelimit-remaining-{kind}"] = f"{max(0, math.floor(allowance.left()))}"
            told[f"x-ratelimit-reset-{kind}"] = f"{allowance.seconds_until(allowance.a_minute):.3f}s"
        return told


def callers(access: Access, memory: int | None = None) -> dict[str, Caller]:
    """Form those who have a key, by their names.

    Args:
        access: who they are.
        memory: file descriptor of what all gateways share, `ledger_entries` in it; None: there is one gateway.
    """
    ledger, formed = Ledger(ledger_entries(access), memory), dict[str, Caller]()
    for number, name in enumerate(access.api_keys):
        share = access.shares.get(name, Share())
        limits = zip(KINDS, (share.requests_per_minute, share.tokens_per_minute), strict=True)
        allowances = {
            kind: Allowance(limit, ledger, number * len(KINDS) + place)
            for place, (kind, limit) in enumerate(limits)
            if limit is not None
        }
        formed[name] = Caller(name, share, allowances, access.gateways)
    return formed


def ledger_entries(access: Access) -> int:
    """How many entries their allowances have in a ledger."""
    return len(KINDS) * len(access.api_keys)


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
