"""The contract's form of an error."""

import httpx

from nla_client.wire import REQUEST_ID_HEADER, STATUS, ErrorDetail, ErrorResponse


def error_in(reply: httpx.Response) -> ErrorDetail:
    """The error in a reply, whose body, status and request id agree."""
    error = ErrorResponse.model_validate_json(reply.content).error
    assert reply.status_code == STATUS[error.type], reply.text
    assert reply.headers[REQUEST_ID_HEADER] == error.request_id
    assert error.message
    assert "Traceback" not in error.message
    return error
