"""What a failed attempt means, and whether to try again. Pure: no clock, no randomness, no I/O.

Trying again is safe: no call changes anything on the server.
"""

import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Final
from urllib.parse import urljoin

import httpx
from pydantic import ValidationError

from nla_client.errors import (
    ERROR_CLASSES,
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    NLAError,
)
from nla_client.wire import RATE_LIMIT_EXCEEDED_HEADER, REQUEST_ID_HEADER, STATUS, ErrorResponse, ErrorType

RETRIED_STATUS: Final = frozenset({429, 503})
# No read or write timeout: the server has had the request and may still be at work on it, so that another one
# would double its load, and the caller's wait, just when it is slow.
RETRIED_CAUSES: Final = (httpx.NetworkError, httpx.RemoteProtocolError, httpx.ConnectTimeout)
FIRST_BACKOFF_S: Final = 0.5
MAX_BACKOFF_S: Final = 8.0
MAX_RETRY_AFTER_S: Final = 60.0
"""Longest wait that a server can ask for; a larger `Retry-After` counts as this."""
MAX_LIMITED_S: Final = 600.0
"""Longest that requests wait, none of which gets through, for limits a minute of the caller's own."""

_TYPES: Final[dict[int, ErrorType]] = {**{code: name for name, code in STATUS.items()}, 403: "authentication"}
_ITEM: Final = re.compile(r"(vectors|texts|chats|token_ids|positions)\[(\d+)\]")
_TAG: Final = re.compile(r"<[^>]*>")


def retry_delay(
    failure: NLAError, attempt: int, max_retries: int, jitter: float, limited_s: float = 0.0
) -> float | None:
    """Seconds to wait after failed attempt number `attempt` (from 0), or None to give up.

    `jitter` in [0, 1) spreads clients that failed together. `Retry-After` is never undercut, up to its limit. What a
    limit a minute of the caller's own holds up is tried until it passes, unless that would take too long: `limited_s`
    are the seconds that the request has waited for such limits since the client got its last answer.
    """
    told = _told_to_wait(failure)
    spent = attempt >= max_retries if told is None else limited_s + told > MAX_LIMITED_S
    if spent or not max_retries or not _may_pass(failure):
        return None
    backoff = min(MAX_BACKOFF_S, FIRST_BACKOFF_S * 2.0**attempt) * (1 + jitter) / 2
    if isinstance(failure, APIStatusError) and failure.retry_after is not None:
        return min(failure.retry_after, MAX_RETRY_AFTER_S) + backoff * jitter
    return backoff


def costs_a_retry(failure: NLAError) -> bool:
    """Whether something went wrong; a limit a minute is no failure, where the server says when to come again."""
    return _told_to_wait(failure) is None


def _told_to_wait(failure: NLAError) -> float | None:
    """Seconds after which a limit a minute has room again; None where it is none, or does not say."""
    if isinstance(failure, APIStatusError) and failure.rate_limited:
        return failure.retry_after
    return None


def _may_pass(failure: NLAError) -> bool:
    if isinstance(failure, APIStatusError):
        return failure.status_code in RETRIED_STATUS
    return isinstance(failure.__cause__, RETRIED_CAUSES)


def transport_error(error: httpx.RequestError, where: str) -> APIConnectionError:
    """The error to raise for one of httpx; `where` names the request."""
    kind = APITimeoutError if isinstance(error, httpx.TimeoutException) else APIConnectionError
    failure = kind(f"{where}: {str(error) or type(error).__name__}")
    failure.__cause__ = error
    return failure


def status_error(
    status: int, headers: Mapping[str, str], body: bytes, offset: int | Mapping[str, int] = 0, url: str = ""
) -> APIStatusError:
    """The error to raise for a reply that is not a success.

    A body that is not the contract's comes from something else on the way, such as a proxy: its first line of
    text is the message, and the type follows from the status. A status that the contract does not have counts
    as `invalid_request` among the 4xx (but 403 as `authentication`), else as `internal`.

    Args:
        status: The HTTP status.
        headers: The reply's headers, found in any case.
        body: The reply's body.
        offset: Items of the caller's batch before this request's: `vectors[3]` becomes `vectors[offset + 3]`; or by
            the field's name, others as they are.
        url: What was asked; where a redirect leads may be told relative to it.
    """
    text = body.decode("utf-8", "replace")
    request_id, retry_after = headers.get(REQUEST_ID_HEADER), _seconds(headers.get("retry-after"))
    exceeded = headers.get(RATE_LIMIT_EXCEEDED_HEADER)
    try:
        detail = ErrorResponse.model_validate_json(body).error
    except ValidationError:
        foreign = ERROR_CLASSES[_foreign_type(status)]
        message = _redirect(status, headers.get("location"), url) or _first_line(text) or _phrase(status)
        return foreign(
            message,
            status_code=status,
            request_id=request_id,
            body=text,
            retry_after=retry_after,
            exceeded=exceeded,
        )
    return ERROR_CLASSES[detail.type](
        _shift(detail.message, offset),
        status_code=status,
        param=None if detail.param is None else _shift(detail.param, offset),
        request_id=request_id or detail.request_id,
        body=text,
        retry_after=retry_after,
        exceeded=exceeded,
    )


def _redirect(status: int, location: str | None, url: str) -> str | None:
    if not 300 <= status < 400 or not location:
        return None
    there = urljoin(url, location)
    return f"{_phrase(status)}: redirected to {there}, which is not followed: give base_url as it is there"


def _shift(text: str, offset: int | Mapping[str, int]) -> str:
    def moved(match: re.Match[str]) -> str:
        more = offset if isinstance(offset, int) else offset.get(match[1], 0)
        return f"{match[1]}[{int(match[2]) + more}]"

    return _ITEM.sub(moved, text)


def _seconds(header: str | None) -> float | None:
    # The contract's form is seconds; an HTTP date would need both clocks to agree.
    return float(header) if header is not None and re.fullmatch(r"\d{1,9}(\.\d+)?", header) else None


def _foreign_type(status: int) -> ErrorType:
    return _TYPES.get(status, "invalid_request" if 400 <= status < 500 else "internal")


def _first_line(text: str) -> str:
    lines = (line.strip() for line in _TAG.sub(" ", text).splitlines())
    return next((line[:200] for line in lines if line), "")


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "no message"
