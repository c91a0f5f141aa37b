"""Settings of a client, and what follows from them for a request and for a failed attempt. No I/O."""

import os
import random
from dataclasses import dataclass, field
from typing import Final, TypeVar

import httpx
import orjson

from nla_client.calls.base import Call
from nla_client.errors import InvalidArgumentError, NLAError
from nla_client.sending.failures import retry_delay, status_error, transport_error

T = TypeVar("T")
CONNECT_S: Final = 10.0
"""Longest wait for a connection: a server that is there takes it at once, however long its answers take."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Where to send and how; checked.

    Raises:
        InvalidArgumentError: not an http(s) URL, a key that no header can hold, a limit below its least.
    """

    base_url: str
    api_key: str | None = field(repr=False)
    timeout: float | None
    max_retries: int
    batch_size: int
    max_in_flight: int
    max_connections: int
    model: str | None = None

    def __post_init__(self) -> None:
        try:
            url = httpx.URL(self.base_url)
        except (httpx.InvalidURL, TypeError) as error:
            raise InvalidArgumentError(f"base_url: {error}") from error
        if url.scheme not in ("http", "https") or not url.host or (url.port or 0) > 65535:
            raise InvalidArgumentError(f"base_url must look like http://host:8000, not {self.base_url!r}")
        if self.max_retries < 0 or min(self.batch_size, self.max_in_flight, self.max_connections) < 1:
            least = "max_retries must be at least 0; batch_size, max_in_flight and max_connections at least 1"
            raise InvalidArgumentError(least)
        if not (self.model is None or (isinstance(self.model, str) and self.model)):
            raise InvalidArgumentError(f"model must be the name of a pair, or None, not {self.model!r}")
        if not (self.key.isascii() and self.key.isprintable()):
            raise InvalidArgumentError("api_key has characters that no header can hold, such as a line end")

    @property
    def key(self) -> str:
        """The given key, else that of the environment; empty for none."""
        return os.environ.get("NLA_API_KEY", "") if self.api_key is None else self.api_key

    def headers(self) -> dict[str, str]:
        """Headers of every request."""
        content = {"Content-Type": "application/json"}
        return content | ({"Authorization": f"Bearer {self.key}"} if self.key else {})

    def timeouts(self) -> httpx.Timeout:
        """For connecting, reading and writing; the wait for a free connection has no limit of its own."""
        connect = CONNECT_S if self.timeout is None else min(self.timeout, CONNECT_S)
        return httpx.Timeout(self.timeout, connect=connect, pool=None)

    def query(self, call: Call[T]) -> dict[str, str] | None:
        """What stands behind a request's path: where it has no body, the pair's name."""
        return {"model": self.model} if self.model is not None and call.of_pair and call.body is None else None

    def body(self, call: Call[T]) -> bytes | None:
        """A request's body, with the pair's name in front."""
        if self.model is None or call.body is None:
            return call.body
        return b'{"model":' + orjson.dumps(self.model) + b"," + call.body.removeprefix(b"{")

    def failure(self, call: Call[T], reply: httpx.Response | httpx.RequestError) -> NLAError:
        """The error that an attempt ended in."""
        if isinstance(reply, httpx.RequestError):
            host = httpx.URL(self.base_url).netloc.decode()
            return transport_error(reply, f"{call.method} {call.path} at {host}")
        return status_error(reply.status_code, reply.headers, reply.content, call.offset, str(reply.request.url))

    def delay(self, call: Call[T], failure: NLAError, attempt: int, limited_s: float) -> float | None:
        """Seconds to wait before the next attempt, or None to give up; `limited_s` were waited for limits so far."""
        jitter = random.random()  # noqa: S311 - spreads load, guards nothing
        return retry_delay(failure, attempt, self.max_retries if call.retry else 0, jitter, limited_s)
