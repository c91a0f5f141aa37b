"""Which checkpoint an engine serves is a part of its self-test, also where only the engine can tell."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from nla_gateway.engines.pool import EnginePool
from nla_gateway.pair.proof import ProofError, check_plugin, prove_injection, settle_fingerprint
from nla_gateway.pair.verbalizer import Verbalizer
from nla_gateway.roles import Role
from nla_gateway.settings import COUNTERS_VARIABLE, EngineSettings
from nla_gateway.telemetry.metrics import Metrics
from nla_launch.pair.rules import Rules
from tests.checkpoints import make_pair
from tests.descriptions import described
from tests.gateway.stand_in import StandIn
from tests.plain import TOY

ONE, OTHER = "1" * 64, "2" * 64


def verbalizer(fingerprint: str | None) -> Verbalizer:
    folder = TOY / "verbalizer"
    settings = EngineSettings(
        urls=("http://127.0.0.1:9", "http://127.0.0.1:10"), api_key="k", checkpoint=folder, model="m",
        dtype="float32", context_length=512, max_in_flight=4, shared_in_flight=2, fingerprint=fingerprint,
        description=described(Role.AV, folder),
    )  # fmt: skip
    return Verbalizer(EnginePool("verbalizer", settings, Metrics()), settings)


def account(**told: str | None) -> dict[str, Any]:
    report = {"role": "av", "kind": "verbalizer", "blocks": 3, "dtype": "float32", "missing_hooks": []}
    return {"internal_states": [{"nla": report | told}]}


def test_an_engine_serves_what_is_here() -> None:
    part = verbalizer(ONE)
    check_plugin(part, account(fingerprint=ONE))
    with pytest.raises(ProofError, match=f"serves another checkpoint than {TOY}/verbalizer: start both with the same"):
        check_plugin(part, account(fingerprint=OTHER))
    with pytest.raises(ProofError, match="serves another checkpoint than"):
        check_plugin(part, account(fingerprint=None))
    with pytest.raises(ProofError, match="another version of nla-serve started it"):
        check_plugin(part, account())


def test_engines_elsewhere_serve_the_same_where_the_weights_are_not_here() -> None:
    part = verbalizer(None)
    for _ in range(2):
        check_plugin(part, account(fingerprint=ONE))
        settle_fingerprint(part, account(fingerprint=ONE))
    assert part.engines.fingerprint == ONE
    for check in (check_plugin, settle_fingerprint):  # two that are proved at the same time
        with pytest.raises(ProofError, match="than the one that was there first: start all"):
            check(part, account(fingerprint=OTHER))


def test_gateways_beside_each_other_agree_on_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two engines elsewhere, each gateway may have proved another first."""
    monkeypatch.setenv(COUNTERS_VARIABLE, str(tmp_path))
    one, other = verbalizer(None), verbalizer(None)
    settle_fingerprint(one, account(fingerprint=ONE))
    with pytest.raises(ProofError, match="than the one that was there first"):
        settle_fingerprint(other, account(fingerprint=OTHER))
    settle_fingerprint(other, account(fingerprint=ONE))
    assert one.engines.fingerprint == other.engines.fingerprint == ONE
    assert len(list(tmp_path.iterdir())) == 1


def test_what_a_preset_states_is_told_apart(tmp_path: Path) -> None:
    """Not by the engine, to which the files alone count."""
    pair = make_pair(tmp_path, "qwen2")
    stated = Rules.model_validate({"reconstructor": {"add_special_tokens": False}})
    assert described(Role.AR, pair.ar).stated == ""
    assert described(Role.AR, pair.ar, stated).stated != ""


class Noting:
    """An engine that notes what it is asked to generate, and how many requests it has then."""

    def __init__(self) -> None:
        self.asked = list[tuple[dict[str, Any], int]]()
        self._stand_in, self._running = StandIn(Role.AV), 0

    async def generate(self, payload: dict[str, Any]) -> dict[str, Any]:
        self._running += 1
        self.asked.append((payload, self._running))
        await asyncio.sleep(0.01)
        self._running -= 1
        return self._stand_in.answer(payload)


@pytest.mark.parametrize("replica", [{}, {"routed_dp_rank": 1}], ids=["alone", "one of several"])
def test_a_self_test_takes_the_ways_of_requests(replica: dict[str, int]) -> None:
    """With top_p and without, one and eight at the same time: else the first callers wait while kernels compile."""
    part, engine = verbalizer(ONE), Noting()
    asyncio.run(prove_injection(part, engine, replica))  # type: ignore[arg-type]
    assert all(replica.items() <= payload.items() for payload, _ in engine.asked)
    sampled = [(payload, running) for payload, running in engine.asked if payload["sampling_params"]["temperature"]]
    ways = [(payload["sampling_params"].get("top_p"), running) for payload, running in sampled]
    assert ways == [(top_p, running) for top_p in (None, 0.9) for running in (1, *range(1, 9))]
    for payload, _ in sampled:
        assert payload.keys() == {"rid", "input_ids", "positional_embed_overrides", "sampling_params", *replica}
        assert payload["input_ids"] == part.prompt.ids
        assert payload["sampling_params"]["max_new_tokens"] > 1  # a token of the prompt's, and one of the answer's
        assert "sampling_seed" in payload["sampling_params"]
