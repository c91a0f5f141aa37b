"""The closed list of error types, and the body of every reply that is not a success."""

from typing import Final, Literal

from nla_client.wire.base import Response

ErrorType = Literal[
    "invalid_request",
    "authentication",
    "not_found",
    "method_not_allowed",
    "payload_too_large",
    "overloaded",
    "internal",
    "engine_unavailable",
    "timeout",
]

STATUS: Final[dict[ErrorType, int]] = {
    "invalid_request": 400,
    "authentication": 401,
    "not_found": 404,
    "method_not_allowed": 405,
    "payload_too_large": 413,
    "overloaded": 429,
    "internal": 500,
    "engine_unavailable": 503,
    "timeout": 504,
}
"""The one table from an error's type to its HTTP status."""

REQUEST_ID_HEADER: Final = "x-request-id"
RATE_LIMIT_EXCEEDED_HEADER: Final = "x-ratelimit-exceeded"
"""On a 429: which of the caller's own limits it is for; `requests` or `tokens`, a minute."""


class ErrorDetail(Response):
    """What went wrong, in which field, in which request."""

    type: ErrorType
    message: str
    param: str | None
    request_id: str


class ErrorResponse(Response):
    """Body of every reply that is not a success."""

    error: ErrorDetail
