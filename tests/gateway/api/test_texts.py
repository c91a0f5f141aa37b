"""Texts for the source over HTTP, before a stand-in for its engine."""

import asyncio
import threading
from typing import Any

import httpx
import pytest

from nla_gateway.engines import concurrency
from nla_gateway.pair.texts import SourceText, SourceTokenizer
from nla_gateway.roles import Role
from nla_gateway.settings import Access
from tests.gateway.stand_in import StandIn, before, until_ready

KEYS = {name: f"key of {name}" for name in ("one", "many")}
LONG = " is a long text" * 2000


def test_one_keys_long_texts_do_not_hold_up_anothers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A short one is read at once, a long one when it is its key's turn."""
    monkeypatch.setattr(concurrency, "SMALL_COMES_AGAIN_S", 600)  # however long the machine stalls
    read, begun, gate = SourceTokenizer.read_text, list[str](), threading.Semaphore(0)

    def held(self: SourceTokenizer, text: str, **options: Any) -> SourceText:
        if text.endswith(LONG):
            begun.append(text.removesuffix(LONG))
            assert gate.acquire(timeout=60)
        return read(self, text[:100], **options)

    async def work(client: httpx.AsyncClient) -> None:
        async def ask(who: str, *texts: str) -> int:
            headers = {"authorization": f"Bearer {KEYS[who]}"}
            answer = await client.post("/tokenize", json={"texts": texts}, headers=headers, timeout=60)
            return answer.status_code

        async def until_queued(count: int) -> None:
            headers = {"authorization": f"Bearer {KEYS['one']}"}
            line = f"\nnla_queue {count}.0\n"
            while line not in (await client.get("/metrics", headers=headers)).text:  # noqa: ASYNC110 - over HTTP
                await asyncio.sleep(0.01)

        await until_ready(client)
        monkeypatch.setattr(SourceTokenizer, "read_text", held)
        assert await ask("one", "A short text, but more than a few words. " * 8) == 200
        crowd = [asyncio.create_task(ask("many", *[f"theirs{LONG}"] * 3)) for _ in range(5)]
        await until_queued(15)
        assert await ask("one", "Another short one, at once. " * 8) == 200
        long = asyncio.create_task(ask("one", f"ours{LONG}"))
        await until_queued(16)
        gate.release(4)  # the two short ones were turns too; in the order of arrival it would be the sixth
        assert await long == 200
        assert "ours" in begun[:4]
        gate.release(12)
        assert await asyncio.gather(*crowd) == [200] * 5
        assert begun.count("theirs") == 15

    before(work, StandIn(Role.SOURCE), access=Access(api_keys=KEYS))
