"""The engines' metrics under one roof: labels added, families merged, silent engines left out."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from prometheus_client.parser import text_string_to_metric_families

from nla_gateway.engines import engine_metrics as module
from nla_gateway.engines.engine import Engine
from nla_gateway.engines.engine_metrics import engine_metrics, render
from nla_gateway.settings import EngineSettings

TEXT = """# HELP sglang:num_requests_total Number of requests, \\\\ and a line\\nend.
# TYPE sglang:num_requests_total counter
sglang:num_requests_total{model_name="a \\"b\\"",tp_rank="0"} 3.0
# HELP sglang:wait_seconds Waiting.
# TYPE sglang:wait_seconds histogram
sglang:wait_seconds_bucket{le="0.1"} 1.0
sglang:wait_seconds_bucket{le="+Inf"} 2.0
sglang:wait_seconds_count 2.0
sglang:wait_seconds_sum 0.5
# HELP sglang:used Share.
# TYPE sglang:used gauge
sglang:used{engine="inner",engine_type="unified"} 0.25
"""


def test_samples_carry_the_engine_and_families_stand_once() -> None:
    text = render({"verbalizer": TEXT, "reconstructor": TEXT}).decode()
    assert text.count("# TYPE sglang:num_requests_total counter\n") == 1
    assert text.count("# HELP ") == 3
    families = {family.name: family for family in text_string_to_metric_families(text)}
    before = {family.name: family for family in text_string_to_metric_families(TEXT)}
    assert families.keys() == before.keys()
    for name, family in families.items():
        assert (family.type, family.documentation) == (before[name].type, before[name].documentation)
        assert {sample.labels["engine"] for sample in family.samples} == {"verbalizer", "reconstructor"}
        assert len(family.samples) == 2 * len(before[name].samples)
    assert families["sglang:num_requests"].samples[0].labels == {
        "model_name": 'a "b"',
        "tp_rank": "0",
        "engine": "verbalizer",
    }
    used = families["sglang:used"].samples[0].labels
    assert used == {"exported_engine": "inner", "engine_type": "unified", "engine": "verbalizer"}


def test_what_is_no_text_of_metrics_is_left_out() -> None:
    text = render({"verbalizer": "<html>{", "reconstructor": TEXT}).decode()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    assert {sample.labels["engine"] for sample in samples} == {"reconstructor"}


@asynccontextmanager
async def engine_that_says(label: str, text: str | None) -> AsyncIterator[Engine]:
    """An engine whose /metrics answers with a text, or never."""

    async def metrics(request: web.Request) -> web.Response:
        if text is None:
            await asyncio.sleep(600)
        return web.Response(text=text)

    app = web.Application()
    app.router.add_get("/metrics", metrics)
    runner = web.AppRunner(app, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    settings = EngineSettings(
        urls=(url,), api_key="k", checkpoint=Path(), model="m", dtype="float32",
        context_length=1, max_in_flight=2, shared_in_flight=1,
    )  # fmt: skip
    async with Engine(label, url, settings) as engine:
        yield engine
    await runner.cleanup()


def test_an_engine_that_does_not_answer_leaves_only_its_own_part_out(monkeypatch: pytest.MonkeyPatch) -> None:
    assert module.TIMEOUT_S < 10
    monkeypatch.setattr(module, "TIMEOUT_S", 0.2)

    async def answers_at_once(engine: Engine) -> None:
        """It has been asked before: however long the machine stalls, its time is not over."""
        text = await engine.metrics()

        async def metrics() -> str:
            return text

        monkeypatch.setattr(engine, "metrics", metrics)

    async def run() -> str:
        async with AsyncExitStack() as stack:
            engines = [
                await stack.enter_async_context(engine_that_says(label, text))
                for label, text in (("verbalizer", TEXT), ("verbalizer 2", "no metrics {"), ("reconstructor", None))
            ]
            await answers_at_once(engines[0])
            await answers_at_once(engines[1])
            async with asyncio.timeout(60):
                return (await engine_metrics(engines)).decode()

    assert asyncio.run(run()) == render({"verbalizer": TEXT}).decode()
