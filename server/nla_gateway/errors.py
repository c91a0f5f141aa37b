"""What can go wrong, in two families.

    CheckpointError        a folder that cannot be served; its text is the one line that the user sees
    RequestError           a request that cannot be answered; becomes the contract's error body
     ├─ InvalidRequest     400    the caller's mistake
     ├─ NotFound           404
     ├─ PayloadTooLarge    413
     ├─ Overloaded         429    RateLimited: by the caller themselves
     ├─ EngineUnavailable  503    starting, gone, or not served
     └─ RequestTimeout     504

Types and statuses come from the contract's table in nla_client.wire.
"""

from typing import ClassVar

from nla_client.wire import STATUS, ErrorType


class CheckpointError(Exception):
    """A checkpoint folder that cannot be served; says what differs and how to mend it."""


class RequestError(Exception):
    """Base of everything that a caller may be told.

    Args:
        message: cause and mend.
        param: the field, such as `vectors[3]`.
        retry_after_s: where waiting helps, for how long.
    """

    type: ClassVar[ErrorType] = "internal"

    def __init__(self, message: str, *, param: str | None = None, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s

    @property
    def status(self) -> int:
        """HTTP status."""
        return STATUS[self.type]


class InvalidRequest(RequestError):
    """The request itself is wrong."""

    type = "invalid_request"


class NotFound(RequestError):
    """What was asked for is not served here."""

    type = "not_found"


class PayloadTooLarge(RequestError):
    """The body or the batch is over the limit."""

    type = "payload_too_large"


class Overloaded(RequestError):
    """The queue is full."""

    type = "overloaded"


class RateLimited(Overloaded):
    """The caller has used up what they may ask for.

    Args:
        message: cause and mend.
        exceeded: `requests` or `tokens`.
        retry_after_s: when to come again.
    """

    def __init__(self, message: str, *, exceeded: str, retry_after_s: int) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.exceeded = exceeded


class EngineUnavailable(RequestError):
    """The engine that this needs is starting, gone, or not served."""

    type = "engine_unavailable"


class RequestTimeout(RequestError):
    """The request took longer than it may."""

    type = "timeout"
