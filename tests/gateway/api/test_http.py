"""What all exchanges share: who is let in, and what is noted of callers who are gone."""

import asyncio
import logging
from typing import Any

import httpx
import pytest

from nla_gateway.api.http import EdgeMiddleware
from nla_gateway.limits import GatewayLimits
from nla_gateway.settings import Access
from nla_gateway.telemetry.metrics import Metrics
from tests.errors import error_in
from tests.gateway.stand_in import before


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ("Bearer a-key", 200),
        ("bearer a-key", 200),
        ("BEARER a-key", 200),
        ("Bearer  a-key ", 200),
        ("bearer A-KEY", 401),
        ("Basic a-key", 401),
        ("bearera-key", 401),
        ("a-key", 401),
        ("bearer", 401),
        ("", 401),
    ],
)
def test_the_scheme_is_read_in_either_case_and_the_key_is_not(sent: str, status: int) -> None:
    """HTTP's schemes have no case, and some clients write theirs small."""

    async def work(client: httpx.AsyncClient) -> None:
        reply = await client.get("/v1/models", headers={"authorization": sent})
        assert reply.status_code == status
        if status == 401:
            assert error_in(reply).type == "authentication"
            assert reply.headers["www-authenticate"] == "Bearer"

    before(work, access=Access(api_keys={"ada": "a-key"}))


@pytest.mark.parametrize(
    ("problem", "levels", "status"),
    [
        ("unable to perform operation on <TCPTransport closed=True>; the handler is closed", ["INFO"], 499),
        ("something else", ["ERROR", "INFO"], 200),
    ],
)
def test_a_caller_whose_connection_broke_is_no_fault_of_ours(
    problem: str, levels: list[str], status: int, caplog: pytest.LogCaptureFixture
) -> None:
    """uvloop raises where the system has broken a connection off; there is no traceback of that in the log."""

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"a"})

    async def broken(message: Any) -> None:
        if message["type"] == "http.response.body":
            raise RuntimeError(problem)

    async def work() -> None:
        edge = EdgeMiddleware(answer, access=Access(), limits=GatewayLimits(), metrics=Metrics())
        scope = {"type": "http", "method": "GET", "path": "/v1/info", "headers": []}
        await edge(scope, None, broken)  # type: ignore[arg-type]
        await asyncio.sleep(0)

    with caplog.at_level(logging.INFO):
        asyncio.run(work())
    assert [record.levelname for record in caplog.records] == levels
    assert caplog.records[-1].fields["status"] == status  # type: ignore[attr-defined]
