"""When the server takes the next request, as far as its answers tell. No I/O.

What a key may ask for a minute comes back evenly. Of each such limit the time is kept at which all of it is back.
"""

import math
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import httpx

from nla_client.calls.base import Call
from nla_client.errors import OverloadedError
from nla_client.sending.failures import MAX_RETRY_AFTER_S
from nla_client.wire import STATUS

MINUTE_S: Final = 60.0
REQUESTS: Final = "requests"
KINDS: Final = (REQUESTS, "tokens")
WORK: Final = "POST"
"""Method of the requests that count."""
_NUMBER: Final = re.compile(r"(\d{1,15}(?:\.\d{1,9})?)s?")


@dataclass(slots=True)
class _Allowance:
    each_s: float
    """In how many seconds one of it comes back; at most a minute."""
    back: float
    """When all of it is there."""

    def wait(self, now: float) -> float:
        """How long until there is one; the server tells times to a millisecond."""
        return math.ceil(1000 * (self.back - MINUTE_S + self.each_s - now)) / 1000


class Allowances:
    """What is left of the limits of a client's key. From any number of threads, or of tasks.

    It has no lock, which would not survive a fork: where two threads meet here, one may be refused, and waits.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known = dict[str, _Allowance]()

    @contextmanager
    def counting(self, call: Call[Any]) -> Iterator[None]:
        """Count a request that is sent within, if the server counts it.

        Raises:
            OverloadedError: the server would refuse it; nothing within was done.
        """
        if call.method != WORK:
            yield
            return
        self._check()
        self._spend(1)
        try:
            yield
        except httpx.RequestError:
            self._spend(-1)
            raise

    def told(self, reply: httpx.Response) -> None:
        """Learn from the headers of an answer; of what they do not tell nothing is known any more."""
        if reply.status_code == STATUS["overloaded"]:
            self._spend(-1)  # what is refused does not count
        for kind in KINDS:
            one, before = _read(reply.headers, kind, self._clock()), self._known.get(kind)
            if one is None:
                self._known.pop(kind, None)
                continue
            if before is not None and before.each_s == one.each_s:
                one.back = max(one.back, before.back)  # the server knows nothing of requests on their way to it
            self._known[kind] = one

    def _check(self) -> None:
        now = self._clock()
        waits = {kind: one.wait(now) for kind in KINDS if (one := self._known.get(kind))}
        kind = max(waits, key=lambda kind: waits[kind], default="")
        if kind and waits[kind] > 0:
            message = f"nothing was sent: the server's last answer told that no {kind} are left for now: wait"
            raise OverloadedError(message, exceeded=kind, retry_after=waits[kind])

    def _spend(self, count: int) -> None:
        if requests := self._known.get(REQUESTS):  # tokens are counted at the end, by the server
            requests.back = max(requests.back, self._clock()) + count * requests.each_s


def _read(headers: Mapping[str, str], kind: str, now: float) -> _Allowance | None:
    """What headers as OpenAI's servers send them tell of a limit; None where they tell nothing that makes sense."""
    found = [
        _NUMBER.fullmatch(headers.get(f"x-ratelimit-{what}-{kind}", "")) for what in ("limit", "remaining", "reset")
    ]
    limit, left, reset = [float(match[1]) if match else -1.0 for match in found]
    if limit < 1 or left < 0 or reset < 0:
        return None
    each_s = MINUTE_S / limit
    if left >= 1:  # no wait follows from it, even of a limit that comes back all at once
        reset = min(reset, (limit - left) * each_s)
    return _Allowance(each_s, now + min(reset, MINUTE_S - each_s + MAX_RETRY_AFTER_S))
