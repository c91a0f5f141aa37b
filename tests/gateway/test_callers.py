"""What callers may ask for a minute, how much of theirs may be in flight, and what they are told of it."""

import pytest

from nla_client.wire import Usage
from nla_gateway.callers import ANYONE, RATE_LIMIT_HEADERS, Allowance, Caller, Exchange, answering, exchange
from nla_gateway.settings import Share


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_an_allowance_comes_back_evenly_and_no_further() -> None:
    clock = Clock()
    allowance = Allowance(60, clock)
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
    caller = Caller("ada", Share(requests_per_minute=2))
    caller._allowances["requests"] = Allowance(2, clock)
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
    caller = Caller("ada", Share(tokens_per_minute=100))
    assert caller.refusal() is None
    mine = Exchange(caller)
    mine.use(Usage(prompt_tokens=500, cached_tokens=450, completion_tokens=100))
    assert mine.tokens == 150
    refusal = caller.refusal()
    assert refusal is not None
    assert refusal.retry_after_s is not None
    assert 30 < refusal.retry_after_s <= 31
    assert caller.headers()["x-ratelimit-remaining-tokens"] == "0"
    assert set(caller.headers()) <= set(RATE_LIMIT_HEADERS)


def test_the_longest_wait_is_what_is_told() -> None:
    caller = Caller("ada", Share(requests_per_minute=1, tokens_per_minute=100))
    assert caller.refusal() is None
    caller.use(Usage(prompt_tokens=1100, cached_tokens=0, completion_tokens=0))
    refusal = caller.refusal()
    assert refusal is not None
    assert (refusal.exceeded, refusal.retry_after_s) == ("tokens", 601)


def test_without_limits_nothing_is_held_up_or_told() -> None:
    caller = Caller("ada", Share())
    caller.use(Usage(prompt_tokens=10**9, cached_tokens=0, completion_tokens=10**9))
    assert all(caller.refusal() is None for _ in range(1000))
    assert caller.headers() == {}


def test_which_request_is_answered_is_known_within_it_alone() -> None:
    mine = Exchange(Caller("ada", Share()))
    with answering(mine):
        assert exchange() is mine
    assert exchange() is ANYONE


def test_several_gateways_share_what_a_caller_gets() -> None:
    caller = Caller("ada", Share(max_in_flight=10, requests_per_minute=8), gateways=4)
    assert caller.most_in_flight == 3
    assert caller.headers()["x-ratelimit-limit-requests"] == "2"
    assert caller.share.requests_per_minute == 8
