"""Ids of requests in engines, which no caller begins."""

import runpy
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import pytest

from nla_client.wire import REQUEST_ID_HEADER
from nla_gateway.api import texts
from nla_gateway.roles import Role
from tests.errors import error_in
from tests.gateway.stand_in import StandIn, before, until_ready
from tests.load import until
from tests.plain import encode, load_toy_vectors


def sglangs_own() -> str:
    """How ids begin that SGLang takes for its own, and drops where it is busy; read without importing it all."""
    found = find_spec("sglang")
    assert found is not None
    assert found.origin is not None
    prefix: str = runpy.run_path(str(Path(found.origin).parent / "srt" / "constants.py"))["HEALTH_CHECK_RID_PREFIX"]
    assert prefix
    return prefix


def test_many_texts_of_many_tokens_are_refused_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them is taken; but what is told of each token takes memory."""
    monkeypatch.setattr(texts, "MOST_TOGETHER", 5000)

    async def work(client: httpx.AsyncClient) -> None:
        assert (await client.post("/tokenize", json={"token_ids": [[5] * 1000] * 5})).status_code == 200
        refused = error_in(await client.post("/tokenize", json={"token_ids": [[5] * 1000] * 6}))
        assert (refused.type, refused.param) == ("payload_too_large", "token_ids")
        assert "more than 5000 tokens together" in refused.message

    before(work, StandIn(Role.SOURCE))


def test_no_request_passes_for_one_of_sglangs_own() -> None:
    own, engines = sglangs_own(), {role: StandIn(role) for role in Role}
    vector: dict[str, Any] = {"vectors": encode(load_toy_vectors()[0]), "dtype": "float32"}
    calls = (
        ("/verbalize", vector), ("/verbalize", vector | {"stream": True}), ("/reconstruct", {"texts": "a"}),
        ("/critic", vector | {"texts": "a"}), ("/ablate", vector | {"texts": "a. b."}), ("/extract", {"texts": "a"}),
        ("/explain", {"texts": "a"}),
    )  # fmt: skip

    async def work(client: httpx.AsyncClient) -> None:
        await until_ready(client)
        for number, (path, body) in enumerate(calls):
            mine, before_it = f"{own}_{number}", sum(len(engine.ids) for engine in engines.values())
            reply = await client.post(path, json=body, headers={REQUEST_ID_HEADER: mine})
            assert (reply.status_code, reply.headers[REQUEST_ID_HEADER]) == (200, mine), reply.text
            assert sum(len(engine.ids) for engine in engines.values()) > before_it
        for cached in (5, 0):  # it was flushed, and is warmed again
            engines[Role.AV].cached_tokens = cached
            await client.post("/verbalize", json=vector)
        await until(lambda: any(one.startswith("warm.") for one in engines[Role.AV].ids), 20)

    before(work, *engines.values())
    for engine in engines.values():
        assert any(own in one for one in engine.ids)
    begun = {one.partition(".")[0] for engine in engines.values() for one in engine.ids}
    assert begun == {"proof", "warm", "nla"}
    assert not [one for one in begun if one.startswith(own) or own.startswith(one)]
