"""What goes to the verbalizer engine, and what its answer means, without an engine."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nla_client.wire import VerbalizeRequest
from nla_gateway.engines.concurrency import Owner
from nla_gateway.engines.engine import Engine
from nla_gateway.errors import EngineUnavailable, InvalidRequest
from nla_gateway.pair.parsing import TAGGED
from nla_gateway.pair.verbalizer import Verbalizer, sampling, ticket
from nla_gateway.roles import Role
from nla_gateway.settings import EngineSettings
from nla_launch.pair.rules import Rules
from tests.checkpoints import D_MODEL, edit_sidecar, make_pair
from tests.descriptions import described
from tests.stack import detached_verbalizer


def verbalizer(folder: Path, rules: dict[str, Any] | None = None, **sidecar: Any) -> Verbalizer:
    pair = make_pair(folder, "qwen2")
    edit_sidecar(pair.av, sidecar)
    settings = EngineSettings(
        urls=("http://127.0.0.1:9",), api_key="k", checkpoint=pair.av, model="m", dtype="bfloat16", context_length=512,
        max_in_flight=1, shared_in_flight=1, description=described(Role.AV, pair.av, Rules.model_validate(rules or {})),
    )  # fmt: skip
    return detached_verbalizer(settings)


def answer(**reason: Any) -> dict[str, Any]:
    counts = {"prompt_tokens": 5, "cached_tokens": 0, "completion_tokens": 3}
    return {"text": "<explanation>a</explanation>", "meta_info": {"finish_reason": reason, **counts}}


def test_seeds_begin_anew_after_the_last() -> None:
    """As a client moves them on, that splits a call."""
    owner = Owner("o", 1)
    assert ticket(owner, 2**31 - 1, 1, 0).seed == ticket(owner, 0, 0, 0).seed
    assert ticket(owner, 2**31 - 2, 1, 0).seed == ticket(owner, 2**31 - 1, 0, 0).seed


def test_a_vector_sent_raw_may_overflow_the_engine(tmp_path: Path) -> None:
    raw = verbalizer(tmp_path, **{"extraction.injection_scale": None})
    vector = np.full(D_MODEL, 3.4e38, np.float32)
    with pytest.raises(InvalidRequest, match="too large for bfloat16") as caught:
        raw.inject(vector, "vectors[2]")
    assert caught.value.param == "vectors[2]"


def test_answers_that_are_none(tmp_path: Path) -> None:
    scaled = verbalizer(tmp_path)
    assert scaled._generated(answer(type="stop", matched="</explanation>")).complete
    for broken in ({"type": "stop", "matched": "NaN happened"}, {"type": "abort", "message": "gone"}):
        with pytest.raises(EngineUnavailable):
            scaled._generated(answer(**broken))


def test_added_vectors_are_sent_at_a_norm_that_overflows_nothing(tmp_path: Path) -> None:
    rules = {"verbalizer": {"injection": {"rule": "add_after_block", "block": 1}}}
    adding = verbalizer(tmp_path, rules)
    sent = [adding.inject(np.full(D_MODEL, value, np.float32))["embeds"] for value in (3.4e38, 1.0)]
    assert sent[0] == sent[1]


UNSTOPPING = {"verbalizer": {"tags": "none", "max_tokens": 120, "complete_at_limit": True}}


@pytest.mark.parametrize(("asked", "given"), [(200, 120), (120, 120), (5, 5)])
def test_no_answer_gets_more_tokens_than_its_verbalizer_takes(asked: int, given: int) -> None:
    call = VerbalizeRequest(vectors="", max_tokens=asked)
    assert sampling(call, 0, TAGGED, 120)["max_new_tokens"] == given
    assert sampling(call, 0, TAGGED)["max_new_tokens"] == asked


@pytest.mark.parametrize(("tokens", "complete"), [(120, True), (5, False)])
def test_an_answer_at_its_limit_may_be_whole(tmp_path: Path, tokens: int, complete: bool) -> None:
    """Where the caller asked for fewer tokens, it is not."""
    cut = answer(type="length", length=tokens)
    cut["text"] = "- a\n- b"
    cut["meta_info"]["completion_tokens"] = tokens
    generated = verbalizer(tmp_path, UNSTOPPING)._generated(cut)
    assert (generated.text, generated.complete, generated.finish_reason) == ("- a\n- b", complete, "length")
    assert not verbalizer(tmp_path / "other", {"verbalizer": {"tags": "none"}})._generated(cut).complete


@pytest.mark.parametrize(
    ("cached", "warmed"), [([0] * 5, 0), ([9] * 5, 0), ([9, 0, 0, 0, 0], 1), ([9, 0, 9, 0, 0], 2), ([0, 9, 9, 0], 1)]
)
def test_a_flushed_cache_is_warmed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cached: list[int], warmed: int
) -> None:
    """Where pages end behind the marker nothing is ever cached, and warming after each such answer had no end."""
    part, warm = verbalizer(tmp_path), list[str]()
    left = iter(cached)

    async def generate(_: Engine, payload: dict[str, Any]) -> dict[str, Any]:
        found = answer(type="length", length=3)
        if "positional_embed_overrides" in payload:
            found["meta_info"]["cached_tokens"] = next(left)
        else:
            warm.append(payload["rid"])
        return found

    async def run() -> None:
        part.engines.set_state(part.engines.engines[0], "ready")
        injected, call = part.inject(np.ones(D_MODEL, np.float32)), VerbalizeRequest(vectors="")
        for sample in range(len(cached)):
            await part.sample(injected, call, ticket(Owner("o", 1), 0, 0, sample))
            await asyncio.sleep(0.01)

    monkeypatch.setattr(Engine, "generate", generate)
    asyncio.run(run())
    assert len(warm) == warmed
    assert next(left, None) is None
