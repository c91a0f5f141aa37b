"""What answers tell of a key's limits a minute, and how long a client waits for that."""

from typing import Any

import httpx
import pytest

from nla_client.calls import about
from nla_client.calls.base import Call
from nla_client.errors import OverloadedError
from nla_client.sending.allowances import Allowances
from nla_client.sending.failures import MAX_RETRY_AFTER_S

POST: Call[bytes] = Call("POST", "/verbalize", b"{}", bytes)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def headers(kind: str = "requests", *, limit: Any = 6, remaining: Any = 0, reset: Any = "60.000s") -> dict[str, str]:
    told = {"limit": limit, "remaining": remaining, "reset": reset}
    return {f"x-ratelimit-{what}-{kind}": f"{value}" for what, value in told.items()}


def answer(told: dict[str, str], status: int = 200) -> httpx.Response:
    return httpx.Response(status, headers=told)


def wait(allowances: Allowances, call: Call[Any] = POST) -> float:
    """How long a request has to wait; where it has not, it was sent."""
    try:
        with allowances.counting(call):
            return 0.0
    except OverloadedError as refusal:
        return float(refusal.retry_after or 0.0)


@pytest.mark.parametrize("kind", ["requests", "tokens"])
def test_the_wait_is_until_there_is_one(kind: str) -> None:
    allowances = Allowances(Clock())
    assert wait(allowances) == 0
    allowances.told(answer(headers(kind)))
    assert wait(allowances) == pytest.approx(10, abs=0.002)
    allowances.told(answer(headers(kind, reset="75.5s")))  # more tokens were used than there were
    assert wait(allowances) == pytest.approx(25.5, abs=0.002)
    with pytest.raises(OverloadedError, match=f"nothing was sent.*limit {kind} a minute, come again in 25.5") as caught:
        allowances.counting(POST).__enter__()
    assert caught.value.exceeded == kind
    assert wait(allowances, about.info()) == 0  # only those for work count


def test_the_longest_wait_counts() -> None:
    allowances = Allowances(Clock())
    allowances.told(answer(headers() | headers("tokens", limit=60)))
    assert wait(allowances) == pytest.approx(10, abs=0.002)


def test_requests_that_are_sent_take_of_what_is_left() -> None:
    clock = Clock()
    allowances = Allowances(clock)
    allowances.told(answer(headers(remaining=2, reset="40s")))
    assert [wait(allowances) for _ in range(2)] == [0, 0]
    assert wait(allowances) == pytest.approx(10, abs=0.002)
    allowances.told(answer(headers(remaining=1, reset="50s")))  # from before the second one came there
    assert wait(allowances) == pytest.approx(10, abs=0.002)
    clock.now += 10.002
    assert wait(allowances) == 0
    assert wait(allowances) == pytest.approx(10, abs=0.003)


def test_what_does_not_count_is_given_back() -> None:
    allowances = Allowances(Clock())
    allowances.told(answer(headers(remaining=1, reset="50s")))
    with pytest.raises(httpx.ConnectError), allowances.counting(POST):
        raise httpx.ConnectError("refused")
    assert wait(allowances) == 0
    allowances.told(answer(headers(remaining=1, reset="50s"), 429))  # for another reason: the queue is full
    assert wait(allowances) == 0
    assert wait(allowances) > 0


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"x-ratelimit-remaining-requests": "0"},
        {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "60s"},
        headers(limit=0),
        headers(limit=0.01),
        headers(limit=-6),
        headers(limit="inf"),
        headers(limit="9" * 400),
        headers(remaining="none"),
        headers(remaining=-1),
        headers(reset="-60s"),
        headers(reset="Wed, 21 Oct 2026 07:28:00 GMT"),
        headers(reset="nan"),
        headers(reset=""),
        headers("images"),
    ],
)
def test_what_makes_no_sense_holds_nothing_up(told: dict[str, str]) -> None:
    allowances = Allowances(Clock())
    allowances.told(answer(headers()))
    allowances.told(answer(told))
    assert wait(allowances) == 0


@pytest.mark.parametrize("remaining", [3, 60])
def test_while_some_are_left_nothing_is_held_up(remaining: int) -> None:
    """Whatever the time is after which all of it is there: elsewhere it may come back at once."""
    allowances = Allowances(Clock())
    allowances.told(answer(headers(remaining=remaining, reset="999999s")))
    assert [wait(allowances) for _ in range(3)] == [0] * 3


@pytest.mark.parametrize("kind", ["requests", "tokens"])
def test_no_answer_is_trusted_for_long(kind: str) -> None:
    clock = Clock()
    allowances = Allowances(clock)
    allowances.told(answer(headers(kind, limit=1, reset="999999999999999s")))
    assert wait(allowances) == pytest.approx(MAX_RETRY_AFTER_S, abs=0.002)
    clock.now += MAX_RETRY_AFTER_S + 0.002
    assert wait(allowances) == 0
    assert wait(allowances) <= MAX_RETRY_AFTER_S + 0.002


def test_a_limit_that_is_gone_or_another_is_forgotten() -> None:
    allowances = Allowances(Clock())
    allowances.told(answer(headers()))
    allowances.told(answer(headers(limit=600, remaining=600, reset="0.000s")))
    assert [wait(allowances) for _ in range(600)] == [0] * 600
    assert wait(allowances) > 0
    allowances.told(answer({}))
    assert wait(allowances) == 0
