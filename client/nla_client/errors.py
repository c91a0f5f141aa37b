"""Everything that the clients raise.

    NLAError
    ├─ InvalidArgumentError (also a ValueError)    refused before anything was sent
    │  └─ InvalidVectorError
    ├─ ClientStateError (also a RuntimeError)      a client used where, or when, it cannot work
    ├─ APIConnectionError                          no answer, or it broke off
    │  └─ APITimeoutError                          no answer in time
    ├─ InvalidResponseError                        a success whose body does not fit the contract
    └─ APIStatusError                              the server answered with an error
       ├─ InvalidRequestError      400 invalid_request
       ├─ AuthenticationError      401 authentication
       ├─ NotFoundError            404 not_found
       ├─ MethodNotAllowedError    405 method_not_allowed
       ├─ PayloadTooLargeError     413 payload_too_large
       ├─ OverloadedError          429 overloaded
       ├─ InternalServerError      500 internal
       ├─ EngineUnavailableError   503 engine_unavailable
       └─ ServerTimeoutError       504 timeout

It knows the contract's error types and no HTTP library.
"""

from typing import ClassVar, Final

from nla_client.wire import STATUS, ErrorType


class NLAError(Exception):
    """Base of every error of this package."""


class InvalidArgumentError(NLAError, ValueError):
    """An argument that no server would take; nothing was sent for it."""


class InvalidVectorError(InvalidArgumentError):
    """Vectors of a wrong shape or kind, all zero, or with elements that are masked, NaN, infinite or too large.

    Attributes:
        message: What is wrong.
        param: Where one of several is at fault, which: such as `vectors[3]`.
    """

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class ClientStateError(NLAError, RuntimeError):
    """A client or a stream used where it cannot work: closed, or in another event loop or process than its own."""


class APIConnectionError(NLAError):
    """The server could not be reached, or its answer broke off. The httpx error, if any, is `__cause__`."""


class APITimeoutError(APIConnectionError):
    """The server did not answer within the client's timeout."""


class InvalidResponseError(NLAError):
    """A success whose body does not fit the contract: not an NLA server, or another version of it."""


class APIStatusError(NLAError):
    """The server answered with an error. Raised as the subclass of its `type`.

    Attributes:
        message: What went wrong, in the server's words.
        status_code: The HTTP status; a proxy on the way may have its own, such as 502.
        param: The field at fault, such as `vectors[3]`, counted over the whole call even if that was split.
        request_id: To find the request in the server's log.
        body: The body as it came.
        retry_after: Seconds after which the server asked to try again.
        exceeded: Which limit a minute this key has used up, `requests` or `tokens`; None where it is not that. Clients
            that retry wait for as long as the server says, ten minutes at most in which no request gets through, and it
            costs no retry.
        rate_limited: Whether it is such a limit.
    """

    type: ClassVar[ErrorType]

    # All but the message have defaults, so that these errors survive pickling between processes.
    def __init__(
        self,
        message: str,
        *,
        status_code: int | None = None,
        param: str | None = None,
        request_id: str | None = None,
        body: str = "",
        retry_after: float | None = None,
        rate_limited: bool = False,
        exceeded: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status_code = STATUS[self.type] if status_code is None else status_code
        self.param = param
        self.request_id = request_id
        self.body = body
        self.retry_after = retry_after
        self.exceeded = exceeded
        self.rate_limited = rate_limited or exceeded is not None

    def __str__(self) -> str:
        context = {"param": self.param, "request": self.request_id}
        if self.rate_limited:
            again = None if self.retry_after is None else f"{self.retry_after:.10g} s"
            context = {"limit": self.exceeded and f"{self.exceeded} a minute", "come again in": again} | context
        known = ", ".join(f"{name} {value}" for name, value in context.items() if value)
        return f"{self.status_code} {self.type}: {self.message}" + (f" ({known})" if known else "")


class InvalidRequestError(APIStatusError):
    """400: an argument that this server does not take."""

    type = "invalid_request"


class AuthenticationError(APIStatusError):
    """401: the server wants an API key, and this one is missing or wrong."""

    type = "authentication"


class NotFoundError(APIStatusError):
    """404: no such path; often a wrong `base_url`."""

    type = "not_found"


class MethodNotAllowedError(APIStatusError):
    """405: the path does not take this method; often a wrong `base_url`."""

    type = "method_not_allowed"


class PayloadTooLargeError(APIStatusError):
    """413: the body or the batch is over the server's limit; lower `batch_size`."""

    type = "payload_too_large"


class OverloadedError(APIStatusError):
    """429: the server's queue stayed full through all retries, or this key has a limit that is reached."""

    type = "overloaded"


class InternalServerError(APIStatusError):
    """500: a bug in the server, or a proxy on the way that failed."""

    type = "internal"


class EngineUnavailableError(APIStatusError):
    """503: the engine is starting, restarting or not served."""

    type = "engine_unavailable"


class ServerTimeoutError(APIStatusError):
    """504: the request took longer than the server's own limit."""

    type = "timeout"


ERROR_CLASSES: Final[dict[ErrorType, type[APIStatusError]]] = {
    "invalid_request": InvalidRequestError,
    "authentication": AuthenticationError,
    "not_found": NotFoundError,
    "method_not_allowed": MethodNotAllowedError,
    "payload_too_large": PayloadTooLargeError,
    "overloaded": OverloadedError,
    "internal": InternalServerError,
    "engine_unavailable": EngineUnavailableError,
    "timeout": ServerTimeoutError,
}
"""The one table from an error's type to the class that is raised."""
