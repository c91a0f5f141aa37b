from typing import Any

import httpx
import pytest

from nla_client import APIConnectionError, APITimeoutError
from nla_client.errors import ERROR_CLASSES, EngineUnavailableError, OverloadedError
from nla_client.sending.failures import (
    MAX_BACKOFF_S,
    MAX_LIMITED_S,
    MAX_RETRY_AFTER_S,
    retry_delay,
    status_error,
    transport_error,
)
from nla_client.wire import STATUS, ErrorType


def overloaded(retry_after: Any = None, exceeded: Any = None) -> Any:
    return OverloadedError("full", retry_after=retry_after, exceeded=exceeded)


@pytest.mark.parametrize("kind", STATUS)
def test_only_429_and_503_are_tried_again(kind: ErrorType) -> None:
    delay = retry_delay(ERROR_CLASSES[kind]("no"), 0, 2, 0.5)
    assert (delay is not None) == (STATUS[kind] in (429, 503))


@pytest.mark.parametrize(
    ("cause", "again", "cls"),
    [
        (httpx.ConnectError("refused"), True, APIConnectionError),
        (httpx.ReadError("reset"), True, APIConnectionError),
        (httpx.RemoteProtocolError("gone"), True, APIConnectionError),
        (httpx.ConnectTimeout("slow"), True, APITimeoutError),
        (httpx.ReadTimeout("slow"), False, APITimeoutError),
        (httpx.WriteTimeout("slow"), False, APITimeoutError),
        (httpx.LocalProtocolError("bad header"), False, APIConnectionError),
        (httpx.DecodingError("bad gzip"), False, APIConnectionError),
    ],
)
def test_transport_errors(cause: Any, again: Any, cls: Any) -> None:
    failure = transport_error(cause, "POST /verbalize")
    assert type(failure) is cls
    assert failure.__cause__ is cause
    assert str(failure) == f"POST /verbalize: {cause}"
    assert (retry_delay(failure, 0, 2, 0.5) is not None) == again


def test_backoff_doubles_up_to_a_limit_and_attempts_end() -> None:
    delays = [retry_delay(overloaded(), attempt, 20, 0.999999) for attempt in range(20)]
    assert delays[:3] == pytest.approx([0.5, 1.0, 2.0], rel=1e-3)
    assert max(delays) <= MAX_BACKOFF_S
    assert retry_delay(overloaded(), 0, 1, 0.0) == 0.25
    assert retry_delay(overloaded(), 2, 2, 0.5) is None
    assert retry_delay(overloaded(), 0, 0, 0.5) is None


def test_retry_after_is_never_undercut_and_bounded() -> None:
    assert retry_delay(overloaded(3.0), 0, 2, 0.0) == 3.0
    assert 3.0 < retry_delay(overloaded(3.0), 0, 2, 0.9) < 4.0
    assert retry_delay(overloaded(86400.0), 0, 2, 0.0) == MAX_RETRY_AFTER_S


def test_a_limit_of_ones_own_is_waited_for_ten_minutes_at_most() -> None:
    assert retry_delay(overloaded(7.0, "requests"), 2, 2, 0.0, MAX_LIMITED_S - 7) == 7.0
    assert retry_delay(overloaded(7.0, "requests"), 2, 2, 0.0, MAX_LIMITED_S - 6) is None
    assert retry_delay(overloaded(MAX_LIMITED_S, "tokens"), 0, 2, 0.0, 0.0) == MAX_RETRY_AFTER_S
    assert retry_delay(overloaded(MAX_LIMITED_S + 1, "tokens"), 0, 2, 0.0, 0.0) is None
    # No limit of one's own, or none that says when: attempts are what counts.
    assert retry_delay(overloaded(7.0), 0, 2, 0.0, MAX_LIMITED_S) == 7.0
    assert retry_delay(overloaded(None, "tokens"), 0, 2, 0.0, MAX_LIMITED_S) == 0.25
    assert retry_delay(overloaded(None, "tokens"), 2, 2, 0.0, 0.0) is None


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7.0), ("0.5", 0.5), ("Wed, 21 Oct 2026 07:28:00 GMT", None), ("-1", None), ("inf", None), ("", None)],
)
def test_retry_after_header(header: Any, seconds: Any) -> None:
    assert status_error(503, httpx.Headers({"Retry-After": header}), b"").retry_after == seconds


@pytest.mark.parametrize(
    ("status", "kind", "body", "message"),
    [
        (502, "internal", b"<html>\r\n<head><title>502 Bad Gateway</title></head>", "502 Bad Gateway"),
        (503, "engine_unavailable", b"", "Service Unavailable"),
        (504, "timeout", b"upstream timed out\nmore", "upstream timed out"),
        (403, "authentication", b"denied", "denied"),
        (418, "invalid_request", b'{"detail": "tea"}', '{"detail": "tea"}'),
        (307, "internal", b"", "Temporary Redirect"),
        (599, "internal", b"\xff\xfe", "\ufffd\ufffd"),
        (599, "internal", b" ", "no message"),
    ],
)
def test_bodies_of_others(status: Any, kind: ErrorType, body: Any, message: Any) -> None:
    error = status_error(status, httpx.Headers({"x-request-id": "r"}), body)
    assert (type(error), error.status_code, error.message) == (ERROR_CLASSES[kind], status, message)
    assert (error.request_id, error.param) == ("r", None)
    assert error.body == body.decode("utf-8", "replace")


def test_items_are_counted_over_the_whole_batch() -> None:
    body = (
        b'{"error": {"type": "engine_unavailable", "message": "vectors[3] is zero", '
        b'"param": "vectors[3]", "request_id": "r"}}'
    )
    error = status_error(503, httpx.Headers(), body, offset=64)
    assert isinstance(error, EngineUnavailableError)
    assert (error.param, error.message, error.request_id) == ("vectors[67]", "vectors[67] is zero", "r")
