"""Limits a minute before a server that has the gateway's own: who is told that nothing is left asks no more until then.

Its time is the clients', and only their waits move it.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest

from nla_client import AsyncNLAClient, NLAClient, OverloadedError
from nla_client.sending.allowances import Allowances
from nla_client.wire import Usage
from nla_gateway import callers
from nla_gateway.settings import Access, Share
from tests.client.conftest import Face, Faces, FakeServer

USED = 30
"""Tokens of a request."""


class Limited(FakeServer):
    """Each key has its limits, as at the gateway."""

    def __init__(self, error_body: Callable[..., Any], **shares: Share) -> None:
        super().__init__()
        self.now = 0.0
        self.refused = 0
        self._error_body = error_body
        access = Access(api_keys={name: name for name in shares}, shares=shares)
        self._callers = callers.callers(access)
        for caller in self._callers.values():
            for allowance in caller._allowances.values():
                allowance._clock = lambda: self.now

    def __call__(self, request: httpx.Request) -> httpx.Response:
        caller = self._callers[request.headers["authorization"].removeprefix("Bearer ")]
        refusal = caller.refusal() if request.method == "POST" else None
        if refusal is None:
            reply = super().__call__(request)
            caller.use(Usage(prompt_tokens=0, cached_tokens=0, completion_tokens=USED))
        else:
            self.refused += 1
            told = {"retry-after": f"{refusal.retry_after_s}", "x-ratelimit-exceeded": refusal.exceeded}
            reply = httpx.Response(429, headers=told, json=self._error_body("overloaded"))
        reply.headers.update(caller.headers())
        return reply

    def timed(self, client: Any) -> Any:
        """Have a client wait in this time."""

        def wait(stop: Any, delay: float) -> bool:
            self.now = max(self.now, self.now + delay)
            return bool(stop.is_set())

        async def pause(stop: Any, delay: float) -> bool:
            until = self.now + delay
            await asyncio.sleep(0)
            self.now = max(self.now, until)
            return bool(stop.is_set())

        client._connection.sleep = pause if isinstance(client, AsyncNLAClient) else wait
        client._connection._allowances._clock = lambda: self.now
        return client


@pytest.fixture(params=["sync", "async"])
def opened(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Makes clients of one kind."""

    def open_face(server: Limited, key: str = "ada", **options: Any) -> Any:
        face = Faces(request.param, server).nla(api_key=key, **options)
        server.timed(face.client)
        return face

    return open_face


@pytest.mark.parametrize(
    ("share", "seconds"),
    [
        (Share(requests_per_minute=6), 140),  # 6 are there, and 14 come back
        (Share(tokens_per_minute=120), 225.5),  # before the last request 570 were used, and it needs but one
        (Share(requests_per_minute=6, tokens_per_minute=120), 225.5),
    ],
)
def test_a_client_does_not_run_into_a_limit_that_it_was_told_of(
    opened: Any, error_body: Any, monkeypatch: pytest.MonkeyPatch, share: Share, seconds: float
) -> None:
    def taken() -> tuple[int, float]:
        server = Limited(error_body, ada=share)
        answers = opened(server, batch_size=1, max_in_flight=1).verbalize(np.ones((20, 2)))
        assert len(answers) == 20
        return server.refused, server.now

    refused, heeded_s = taken()
    assert refused == 0
    monkeypatch.setattr(Allowances, "told", lambda _self, _reply: None)
    refused, unheeded_s = taken()
    assert refused > 3
    assert seconds <= heeded_s < min(seconds, unheeded_s) + 1


def test_overlapping_calls_of_a_client_share_what_they_know(error_body: Any) -> None:
    server = Limited(error_body, ada=Share(requests_per_minute=60))

    async def work() -> None:
        transport = httpx.MockTransport(server)
        async with AsyncNLAClient("http://nla", api_key="ada", batch_size=1, transport=transport) as client:
            nla = server.timed(client)
            await nla.info()
            await asyncio.gather(*(nla.verbalize(np.ones((10, 2))) for _ in range(20)))

    asyncio.run(work())
    assert len(server.requests) == 201
    assert server.refused == 0
    assert 139 < server.now < 142


def test_threads_share_it(error_body: Any) -> None:
    server = Limited(error_body, ada=Share(requests_per_minute=60))
    with NLAClient("http://nla", api_key="ada", batch_size=1, transport=httpx.MockTransport(server)) as client:
        nla = server.timed(client)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: nla.verbalize(np.ones((10, 2))), range(20)))
    assert len(server.requests) == 200
    assert server.refused < 20  # where threads meet, one may be


def test_without_retries_it_is_refused_at_once(opened: Any, error_body: Any) -> None:
    server = Limited(error_body, ada=Share(requests_per_minute=1))
    nla = opened(server, max_retries=0)
    nla.verbalize([1.0])
    with pytest.raises(OverloadedError, match="nothing was sent") as caught:
        nla.verbalize([1.0])
    assert (caught.value.rate_limited, caught.value.retry_after, server.now) == (True, pytest.approx(60, abs=0.01), 0)
    assert nla.info().layer == 1
    assert server.refused == 0


def test_each_client_knows_of_its_own_key_alone(opened: Any, error_body: Any) -> None:
    server = Limited(error_body, ada=Share(requests_per_minute=1), bob=Share(), eve=Share(requests_per_minute=2))
    for key in ("ada", "bob", "eve"):
        opened(server, key).verbalize([1.0])
    assert server.now == 0
    opened(server, "bob").verbalize([1.0])
    opened(server, "eve").verbalize([1.0])
    assert server.now == 0


def test_retry_after_goes_before_what_else_is_told(faces: Any, server: Any, error_body: Any) -> None:
    told = {"x-ratelimit-limit-requests": "60", "x-ratelimit-remaining-requests": "0"}
    told |= {"x-ratelimit-reset-requests": "60.000s", "x-ratelimit-exceeded": "requests", "retry-after": "7"}
    server.script = [httpx.Response(429, headers=told, json=error_body("overloaded"))]
    nla: Face = faces.nla()
    connection = nla.client._connection
    connection._allowances._clock = lambda: sum(nla.waits)
    assert str(nla.verbalize([1.0])) == "1"
    assert len(nla.waits) == 1
    assert 7 <= nla.waits[0] < 8
