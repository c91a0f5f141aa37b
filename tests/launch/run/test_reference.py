"""What transformers makes of a prompt, asked before an engine of an untried architecture starts."""

import logging
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from nla_gateway.pair.prompt import ReconstructorPrompt
from nla_gateway.roles import Role
from nla_launch.pair.bases import served_config, whole_config
from nla_launch.pair.checkpoints import Checkpoint, find
from nla_launch.pair.preflight import describe_checkpoints
from nla_launch.pair.rules import InjectionRule, Rules, VerbalizerRules
from nla_launch.pair.sources import Based, Source
from nla_launch.plan.placement import Request, Target, plan_pair
from nla_launch.plan.plan import EnginePlan
from nla_launch.run import reference
from nla_launch.run.reference import FORCED_TOKENS, TEXT, expected_of
from tests.adapters import save_adapter
from tests.checkpoints import SCALE, Pair, make_pair, write_sidecar
from tests.reference import AddingVerbalizer, ReferenceReconstructor, ReferenceVerbalizer
from tests.warm import WarmPopen

ADDED = Rules(verbalizer=VerbalizerRules(injection=InjectionRule(rule="add_after_block", block=1)))


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_pair(tmp_path_factory.mktemp("granite"), "granite")


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its imports take longest: `test_a_rebuilt_vector` shows that it makes them."""
    monkeypatch.setattr(subprocess, "Popen", WarmPopen)


@pytest.fixture
def pair(original: Pair, tmp_path: Path) -> Pair:
    return original.copy(tmp_path)


def planned(role: Role, source: Source, rules: Rules | None = None) -> EnginePlan:
    checkpoint: Checkpoint = find(source, "all")
    description = describe_checkpoints({role: checkpoint}, rules or Rules())[role]
    config = whole_config(role, checkpoint)
    assert config is not None
    target = Target(checkpoint, served_config(checkpoint, config, description), description)
    return plan_pair({role: target}, Request(device="cpu"), [])[0]


def test_a_rebuilt_vector(pair: Pair) -> None:
    plan = planned(Role.AR, str(pair.ar))
    expected = expected_of(plan)
    assert expected is not None
    assert plan.description is not None
    assert list(expected.ids) == ReconstructorPrompt.load(pair.ar, plan.description).encode(TEXT)
    np.testing.assert_allclose(expected.vector, ReferenceReconstructor(pair.ar).vector(TEXT), rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("forked")
def test_likely_tokens_with_a_vector_in_the_prompt(pair: Pair) -> None:
    expected = expected_of(planned(Role.AV, str(pair.av)))
    assert expected is not None
    vector = np.array(expected.vector, dtype=np.float32)
    assert np.linalg.norm(vector) == pytest.approx(SCALE)
    verbalizer = ReferenceVerbalizer(pair.av)
    # Granite scales what it is given as embeddings; the vector is the first block's input itself.
    verbalizer.sidecar["extraction"]["injection_scale"] = SCALE / verbalizer.model.config.embedding_multiplier
    assert_likely(expected.logprobs, verbalizer.logits(vector, verbalizer.prompt_ids()[:FORCED_TOKENS]))


@pytest.mark.usefixtures("forked")
def test_likely_tokens_with_a_vector_added(pair: Pair) -> None:
    expected = expected_of(planned(Role.AV, str(pair.av), ADDED))
    assert expected is not None
    verbalizer, vector = AddingVerbalizer(pair.av, 1), np.array(expected.vector, dtype=np.float32)
    assert_likely(expected.logprobs, verbalizer.logits(vector, verbalizer.prompt_ids()[:FORCED_TOKENS]))


def assert_likely(found: Any, logits: torch.Tensor) -> None:
    wanted = logits.log_softmax(-1)[-FORCED_TOKENS - 1 :]
    assert len(found) == FORCED_TOKENS + 1
    for place, row in zip(found, wanted, strict=True):
        assert len(place) == 20
        assert set(place) == set(row.topk(20).indices.tolist())
        assert list(place.values()) == pytest.approx([float(row[token]) for token in place], abs=1e-4)


@pytest.mark.usefixtures("forked")
def test_a_base_s_first_blocks_with_an_adapter(pair: Pair, tmp_path: Path) -> None:
    base, folder = pair.av, tmp_path / "adapter"
    model = AutoModelForCausalLM.from_pretrained(base)
    merged = save_adapter(model, folder, target_modules=["q_proj", "down_proj"], r=4, lora_alpha=8)
    save_file(load_file(pair.ar / "value_head.safetensors"), folder / "value_head.safetensors")
    reference_ar = ReferenceReconstructor(pair.ar)
    write_sidecar(folder, "ar", reference_ar.tokenizer, "granite")
    expected = expected_of(planned(Role.AR, Based(base=str(base), adapters=(str(folder),))))
    assert expected is not None
    backbone = merged.model
    backbone.layers = backbone.layers[:2]
    backbone.norm = torch.nn.Identity()
    with torch.no_grad():
        hidden = backbone(torch.tensor([expected.ids])).last_hidden_state[0, -1]
    np.testing.assert_allclose(expected.vector, reference_ar.head @ hidden, rtol=1e-4, atol=1e-5)


FAULTS: dict[str, tuple[Callable[[Pair, EnginePlan], EnginePlan], str]] = {
    "quantized": (lambda pair, plan: replace(plan, quantization="fp8"), "it is quantized"),
    "large": (
        lambda pair, plan: replace(plan, config=replace(plan.config, vocabulary=10**9, stored=None)),  # type: ignore[type-var]
        "it has more than 2,000,000,000 parameters",
    ),
    "a weight is missing": (
        lambda pair, plan: [
            save_file(
                {n: v for n, v in load_file(pair.ar / "model.safetensors").items() if "layers.1.mlp.up" not in n},
                pair.ar / "model.safetensors",
                {"format": "pt"},
            ),
            plan,
        ][1],
        "transformers finds no layers.1.mlp.up_proj.weight",
    ),
}


@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize("fault", FAULTS)
def test_without_a_reference_the_log_says_why(pair: Pair, fault: str, caplog: pytest.LogCaptureFixture) -> None:
    break_it, reason = FAULTS[fault]
    assert expected_of(break_it(pair, planned(Role.AR, str(pair.ar)))) is None
    (warning,) = [record for record in caplog.records if "does not compare it" in record.message]
    assert warning.levelno == logging.WARNING
    assert reason in warning.message
    assert "\n" not in warning.message


def test_a_computer_that_takes_too_long(pair: Pair, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    monkeypatch.setattr(reference, "LIMIT_S", 0.01)
    assert expected_of(planned(Role.AR, str(pair.ar))) is None
    assert "transformers takes more than 0 s" in caplog.text


def test_of_a_known_architecture_nothing_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "COMPUTER", "no_such_module")
    assert expected_of(planned(Role.AR, str(make_pair(tmp_path, "qwen2").ar))) is None
