"""What callers may ask for a minute, how much of theirs may be in flight, and what they are told of it."""

import os
import subprocess
import sys
import time
from contextlib import ExitStack
from typing import Any

import pytest

from nla_client.wire import Usage
from nla_gateway.api.work import owner_of
from nla_gateway.callers import ANYONE, RATE_LIMIT_HEADERS, Allowance, Caller, Exchange, answering, callers, exchange
from nla_gateway.ledger import Ledger
from nla_gateway.settings import Access, Share


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def calling(share: Share, clock: Clock | None = None) -> Caller:
    """A caller of a gateway that is alone, whose time is that of the clock."""
    (caller,) = callers(Access(api_keys={"ada": "key"}, shares={"ada": share})).values()
    for allowance in caller._allowances.values():
        allowance._clock = clock or allowance._clock
    return caller


def test_an_allowance_comes_back_evenly_and_no_further() -> None:
    clock = Clock()
    allowance = Allowance(60, Ledger(1), 0, clock)
    allowance.spend(60)
    assert allowance.left() == 0
    assert allowance.seconds_until(1) == pytest.approx(1)
    clock.now += 2.5
    assert allowance.left() == pytest.approx(2.5)
    allowance.spend(12)  # of tokens it is known only afterwards
    assert allowance.left() == pytest.approx(-9.5)
    assert allowance.seconds_until(1) == pytest.approx(10.5)
    clock.now += 1000
    assert allowance.left() == 60
    assert allowance.seconds_until(60) == 0


def test_requests_over_the_limit_are_told_when_to_come_again() -> None:
    clock = Clock()
    caller = calling(Share(requests_per_minute=2), clock)
    assert [caller.refusal(), caller.refusal()] == [None, None]
    refusal = caller.refusal()
    assert refusal is not None
    assert refusal.message.startswith("ada: 2 requests a minute")
    assert refusal.retry_after_s == 30
    assert caller.headers() == {
        "x-ratelimit-limit-requests": "2",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "60.000s",
    }
    clock.now += refusal.retry_after_s
    assert caller.refusal() is None


def test_tokens_that_were_used_hold_later_requests_up() -> None:
    caller = calling(Share(tokens_per_minute=100), Clock())
    assert caller.refusal() is None
    mine = Exchange(caller)
    mine.use(Usage(prompt_tokens=500, cached_tokens=450, completion_tokens=100))
    assert mine.tokens == 150
    refusal = caller.refusal()
    assert refusal is not None
    assert refusal.retry_after_s == 31
    assert caller.headers()["x-ratelimit-remaining-tokens"] == "0"
    assert set(caller.headers()) <= set(RATE_LIMIT_HEADERS)


def test_the_longest_wait_is_what_is_told() -> None:
    caller = calling(Share(requests_per_minute=1, tokens_per_minute=100), Clock())
    assert caller.refusal() is None
    caller.use(Usage(prompt_tokens=1100, cached_tokens=0, completion_tokens=0))
    refusal = caller.refusal()
    assert refusal is not None
    assert (refusal.exceeded, refusal.retry_after_s) == ("tokens", 601)


def test_without_limits_nothing_is_held_up_or_told() -> None:
    caller = calling(Share())
    caller.use(Usage(prompt_tokens=10**9, cached_tokens=0, completion_tokens=10**9))
    assert all(caller.refusal() is None for _ in range(1000))
    assert caller.headers() == {}


def test_places_are_asked_for_in_the_callers_name() -> None:
    mine = Exchange(calling(Share()))
    with answering(mine):
        assert owner_of("an id", 3).caller is mine.caller
    assert owner_of("an id", 3).caller is ANYONE.caller


def test_which_request_is_answered_is_known_within_it_alone() -> None:
    mine = Exchange(Caller("ada", Share()))
    with answering(mine):
        assert exchange() is mine
    assert exchange() is ANYONE


SPENDING = """
import sys
from nla_client.wire import Usage
from nla_gateway.callers import callers
from nla_gateway.settings import Access, Share

share = Share(requests_per_minute=int(sys.argv[2]), tokens_per_minute=10**9)
(caller,) = callers(Access(api_keys={"ada": "key"}, shares={"ada": share}, gateways=2), int(sys.argv[1])).values()
print("begun", flush=True)
sys.stdin.read()
taken = 0
while caller.refusal() is None:
    taken += 1
    caller.use(Usage(prompt_tokens=3, cached_tokens=1, completion_tokens=1))
print(taken)
"""


def test_several_gateways_share_what_a_caller_gets() -> None:
    """Processes that spend at the same time come to the limit together; a hundredth of it comes back meanwhile."""
    limit, memory = 60_000, os.memfd_create("ledger")
    os.truncate(memory, 16)
    command = [sys.executable, "-c", SPENDING, str(memory), str(limit)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with ExitStack() as stack:
        spending = [stack.enter_context(subprocess.Popen(command, pass_fds=[memory], **pipes)) for _ in range(2)]
        started = time.monotonic()
        assert [one.stdout.readline() for one in spending] == ["begun\n"] * 2
        for one in spending:
            one.stdin.close()
        taken = [int(one.stdout.read()) for one in spending]
    assert limit <= sum(taken) <= limit * (1 + (time.monotonic() - started) / 60) + 1
    access = Access(api_keys={"ada": "key"}, shares={"ada": Share(tokens_per_minute=10**9)})
    (caller,) = callers(access, memory).values()
    left = int(caller.headers()["x-ratelimit-remaining-tokens"])
    assert 10**9 - 3 * sum(taken) <= left <= 10**9
    os.close(memory)


def test_several_gateways_have_a_part_of_a_callers_places_each() -> None:
    access = Access(api_keys={"ada": "key"}, shares={"ada": Share(max_in_flight=10)}, gateways=4)
    assert callers(access)["ada"].most_in_flight == 3


def test_each_caller_has_entries_of_their_own() -> None:
    shares = {name: Share(requests_per_minute=1, tokens_per_minute=10) for name in ("ada", "eve")}
    known = callers(Access(api_keys={name: f"key of {name}" for name in shares}, shares=shares))
    assert known["ada"].refusal() is None
    known["ada"].use(Usage(prompt_tokens=20, cached_tokens=0, completion_tokens=0))
    assert known["ada"].refusal() is not None
    assert known["eve"].headers()["x-ratelimit-remaining-tokens"] == "10"
    assert known["eve"].refusal() is None
