"""How texts are shared out over calls of the reconstructor engine, without an engine."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nla_gateway.engines.calls import BESIDE_OTHERS, USUAL
from nla_gateway.engines.concurrency import Owner
from nla_gateway.engines.engine import Engine
from nla_gateway.engines.pool import EnginePool
from nla_gateway.pair.reconstructor import Reconstructor
from nla_gateway.roles import Role
from nla_gateway.settings import EngineSettings
from nla_gateway.telemetry.metrics import Metrics
from tests.checkpoints import D_MODEL, make_pair
from tests.descriptions import described

PLACES = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pair(tmp_path_factory.mktemp("pair"), "llama").ar


def rebuilt(folder: Path, counts: list[int], monkeypatch: pytest.MonkeyPatch) -> tuple[list[int], list[Any]]:
    """Ask for so many texts each at the same time; returns how many each of the engine's calls had, and what came."""
    calls: list[int] = []

    async def embed(self: Engine, batch: list[list[int]], model: str, rid: str) -> Any:
        calls.append(len(batch))
        await asyncio.sleep(0)
        return [np.full(D_MODEL, len(ids), np.float32) for ids in batch], sum(map(len, batch))

    monkeypatch.setattr(Engine, "embed", embed)
    settings = EngineSettings(
        urls=("http://127.0.0.1:9",), api_key="k", checkpoint=folder, model="m", dtype="float32", context_length=512,
        max_in_flight=PLACES, shared_in_flight=1, description=described(Role.AR, folder),
    )  # fmt: skip

    async def work() -> list[Any]:
        pool = EnginePool("reconstructor", settings, Metrics())
        pool.set_state(pool.engines[0], "ready")
        part = Reconstructor(pool, settings, max_text_tokens=100, baseline=None)
        texts = [["word " * (1 + k % 5) for k in range(count)] for count in counts]
        return await asyncio.gather(
            *(
                part.reconstruct(some, [None] * len(some), Owner(f"{number}", len(some)))
                for number, some in enumerate(texts)
            )
        )

    return calls, asyncio.run(work())


def test_a_batch_alone_goes_in_calls_of_many_texts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, ((vectors, usage),) = rebuilt(folder, [20], monkeypatch)
    assert sorted(calls) == [4, USUAL.texts, USUAL.texts]
    assert usage.prompt_tokens == sum(vector[0] for vector in vectors)


def test_beside_single_texts_it_goes_in_calls_of_few(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, [(one, _), (many, usage)] = rebuilt(folder, [1, 20], monkeypatch)
    assert calls[0] == 1
    assert max(calls[1:]) == BESIDE_OTHERS.texts
    assert sum(calls) == 21
    assert len(one) == 1
    alone, [(expected, _)] = rebuilt(folder, [20], monkeypatch)
    assert max(alone) == USUAL.texts
    assert np.array_equal(many, expected)
    assert usage.prompt_tokens == sum(vector[0] for vector in many)
