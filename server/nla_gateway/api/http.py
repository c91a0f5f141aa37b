"""What every HTTP exchange shares: request ids, the key, the body limit, one log line, and the one place where
exceptions become the contract's error body.
"""

import asyncio
import hmac
import logging
import re
import time
import uuid
from contextlib import suppress
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nla_client.wire import RATE_LIMIT_EXCEEDED_HEADER, REQUEST_ID_HEADER, STATUS, ErrorDetail, ErrorResponse, ErrorType
from nla_gateway.api.bodies import Bodies
from nla_gateway.api.page import is_of_the_page
from nla_gateway.callers import ANYONE, Caller, Exchange, answering, callers
from nla_gateway.errors import RateLimited, RequestError
from nla_gateway.limits import GatewayLimits
from nla_gateway.settings import Access
from nla_gateway.telemetry.metrics import Metrics

logger = logging.getLogger("nla_gateway.access")

OPEN_PATHS: Final = frozenset({"/health", "/ready", "/docs", "/openapi.json"})
POLLED_PATHS: Final = frozenset({"/health", "/ready", "/metrics"})
WORK: Final = "POST"
"""How all is asked for that engines do."""
UNSUPPORTED_MEDIA_TYPE: Final = 415
GONE: Final = 499
"""nginx's status, for the log line, of an exchange that the caller left."""
CLOSED: Final = "the handler is closed"
"""What uvloop says where a connection was broken off, and nobody has been told of it yet."""
SANE_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")
TYPES_BY_STATUS: Final[dict[int, ErrorType]] = {status: kind for kind, status in STATUS.items()}


def error_response(
    kind: ErrorType, message: str, request_id: str, *, param: str | None = None, headers: dict[str, str] | None = None
) -> JSONResponse:
    """Form the contract's error reply."""
    body = ErrorResponse(error=ErrorDetail(type=kind, message=message, param=param, request_id=request_id))
    challenge = {"www-authenticate": "Bearer"} if kind == "authentication" else {}
    return JSONResponse(body.model_dump(), STATUS[kind], {**challenge, **(headers or {})})


def error_detail(error: Exception, request_id: str) -> ErrorDetail:
    """Describe any failure to a caller; what is not a RequestError is a bug, logged here and not shown."""
    if isinstance(error, RequestError):
        return ErrorDetail(type=error.type, message=error.message, param=error.param, request_id=request_id)
    logger.error("request %s failed", request_id, exc_info=error)
    message = "something went wrong in the server; its log has more under this request id"
    return ErrorDetail(type="internal", message=message, param=None, request_id=request_id)


def retry_after_header(error: Exception) -> dict[str, str]:
    """Form `Retry-After` where waiting helps, else nothing; and tell which of the caller's own limits it is for."""
    seconds = error.retry_after_s if isinstance(error, RequestError) else None
    told = {RATE_LIMIT_EXCEEDED_HEADER: error.exceeded} if isinstance(error, RateLimited) else {}
    return told if seconds is None else {"retry-after": str(seconds), **told}


def _response_to(error: Exception, request_id: str) -> JSONResponse:
    detail = error_detail(error, request_id)
    return error_response(
        detail.type, detail.message, request_id, param=detail.param, headers=retry_after_header(error)
    )


def install_error_handlers(app: FastAPI) -> None:
    """Route every exception to the contract's error body."""

    @app.exception_handler(RequestError)
    async def on_error(request: Request, error: RequestError) -> JSONResponse:
        return _response_to(error, request.state.request_id)

    @app.exception_handler(HTTPException)
    async def on_http(request: Request, error: HTTPException) -> JSONResponse:
        kind = TYPES_BY_STATUS.get(error.status_code, "invalid_request")
        message = f"{request.method} {request.url.path}: {str(error.detail).lower()}"
        return error_response(kind, message, request.state.request_id, headers=dict(error.headers or {}))


class CallerGoneError(Exception):
    """There is nobody any more to answer."""


class EdgeMiddleware:
    """Outermost layer but for CORS, plain ASGI so that streams and disconnects pass through untouched."""

    def __init__(
        self, app: ASGIApp, *, access: Access, limits: GatewayLimits, metrics: Metrics, ledger: int | None = None
    ) -> None:
        self._app = app
        known = callers(access, ledger)
        self._callers = [(key.encode(), known[name]) for name, key in access.api_keys.items()]
        self._bodies = Bodies(limits)
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one exchange."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        headers = dict(scope["headers"])
        request_id = _request_id(headers)
        caller = self._caller(headers)
        known = caller is not None or not self._callers
        exchange = Exchange(caller or ANYONE.caller)
        scope.setdefault("state", {}).update(request_id=request_id, known=known)
        status = 0
        self._metrics.in_flight.inc(scope["path"] not in POLLED_PATHS)

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                own = {REQUEST_ID_HEADER: request_id, **exchange.caller.headers()}
                message["headers"] = [*message["headers"], *((k.encode(), v.encode()) for k, v in own.items())]
            try:
                await send(message)
            except RuntimeError as error:
                if CLOSED not in str(error):
                    raise
                raise CallerGoneError from None

        try:
            refusal = self._refusal(scope, headers, caller, request_id)
            if refusal is not None:
                await refusal(scope, receive, send_with_id)
            else:
                with self._bodies.receiving(receive, exchange.caller) as watched, answering(exchange):
                    await self._app(scope, watched, send_with_id)
        except CallerGoneError:
            status = GONE
        except Exception as error:
            # Caught here, inside Starlette's own handler of last resort: its replies would carry no request id.
            response = _response_to(error, request_id)
            if not status:
                with suppress(CallerGoneError):
                    await response(scope, receive, send_with_id)
        finally:
            seconds = time.perf_counter() - started
            # In the loop's next turn: uvloop sends what was written, the answer, at the end of this one.
            asyncio.get_running_loop().call_soon(self._note, scope, request_id, exchange, status, seconds)

    def _note(self, scope: Scope, request_id: str, exchange: Exchange, status: int, seconds: float) -> None:
        """Count one exchange that has ended, and log it."""
        counted = scope["path"] not in POLLED_PATHS
        self._metrics.in_flight.dec(counted)
        self._metrics.request(exchange.model, _endpoint(scope), status, seconds)
        caller = exchange.caller.name or None
        if caller and scope["method"] == WORK:
            self._metrics.call(caller, status)
        fields = {
            "request_id": request_id,
            "method": scope["method"],
            "path": _one_line(scope["path"]),
            "status": status,
            "seconds": round(seconds, 3),
            "caller": caller,
            "model": exchange.model or None,
            "tokens": exchange.tokens,
        }
        line = "%(method)s %(path)s %(status)d %(seconds).3fs %(request_id)s" + (" %(caller)s" if caller else "")
        line += " %(tokens)d tokens" if exchange.tokens else ""
        logger.log(logging.INFO if counted else logging.DEBUG, line, fields, extra={"fields": fields})

    def _caller(self, headers: dict[bytes, bytes]) -> Caller | None:
        """Know the caller by the key shown; every key is compared, in constant time, whichever it is."""
        scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() != b"bearer":
            return None
        known = [caller for key, caller in self._callers if hmac.compare_digest(given.strip(), key)]
        return known[0] if known else None

    def _refusal(
        self, scope: Scope, headers: dict[bytes, bytes], caller: Caller | None, request_id: str
    ) -> JSONResponse | None:
        path = scope["path"]
        if self._callers and caller is None and path not in OPEN_PATHS and not is_of_the_page(path):
            return error_response("authentication", "give the API key: authorization: Bearer KEY", request_id)
        host = headers.get(b"host", b"").decode("latin-1")
        if not self._callers and not is_loopback(host):
            # A page of any site may have its own name lead here (DNS rebinding); without a key only this would tell.
            message = f"host {host!r}: a server without an API key is called as localhost or 127.0.0.1"
            return error_response("invalid_request", message, request_id)
        if headers.get(b"content-encoding", b"identity").lower() != b"identity":
            response = error_response("invalid_request", "send the body as it is, without content-encoding", request_id)
            response.status_code = UNSUPPORTED_MEDIA_TYPE
            return response
        length = headers.get(b"content-length", b"0")
        problem = self._bodies.refusal(int(length), caller or ANYONE.caller) if length.isdigit() else None
        if problem is None and caller is not None and scope["method"] == WORK:
            problem = caller.refusal()
        return None if problem is None else _response_to(problem, request_id)


def is_loopback(host: str) -> bool:
    """Whether a Host header names this machine to itself; where there is none, the caller is no browser."""
    with suppress(ValueError):
        name = urlsplit(f"//{host}").hostname or "localhost"
        return name == "localhost" or name.endswith(".localhost") or ip_address(name).is_loopback
    return False


def _request_id(headers: dict[bytes, bytes]) -> str:
    given = headers.get(REQUEST_ID_HEADER.encode(), b"").decode("latin-1")
    return given if SANE_ID.fullmatch(given) else uuid.uuid4().hex


def _one_line(path: str) -> str:
    """A decoded path may hold line ends, which would forge lines of the log."""
    return path if path.isprintable() else repr(path)


def _endpoint(scope: Scope) -> str:
    route = scope.get("route")
    return getattr(route, "path", "other")
