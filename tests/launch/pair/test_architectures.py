"""Which architectures are served, tried with a warning, or refused."""

import logging
import re
from dataclasses import replace
from pathlib import Path

import pytest

from nla_gateway.roles import Role
from nla_launch.errors import LaunchError
from nla_launch.pair.architectures import SUPPORTED, WRAPPERS, check_architecture, misfit
from nla_launch.pair.checkpoints import Checkpoint
from tests.launch.shapes import QWEN

CHECKPOINT = Checkpoint("x", "owner/x", None)


@pytest.mark.parametrize("architecture", [*SUPPORTED, *WRAPPERS])
def test_those_that_were_run(architecture: str, caplog: pytest.LogCaptureFixture) -> None:
    for role in Role:
        check_architecture(role, CHECKPOINT, replace(QWEN, architecture=architecture))
    assert not caplog.text
    assert misfit(WRAPPERS.get(architecture, architecture)) is None


def test_the_page_lists_them() -> None:
    page = (Path(__file__).parents[3] / "launch" / "PAIRS.md").read_text()
    listed = page.split("These were run in both roles")[1].split("\n\n")[0]
    assert re.findall(r"`(\w+)`", listed) == [*SUPPORTED, *WRAPPERS]


@pytest.mark.parametrize("architecture", ["ApertusForCausalLM", "GraniteForCausalLM", "MixtralForCausalLM"])
def test_those_that_only_seem_to_fit_are_warned_of(architecture: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        check_architecture(Role.AR, CHECKPOINT, replace(QWEN, architecture=architecture))
    assert f"architecture {architecture} was never tried" in caplog.text


@pytest.mark.parametrize(
    ("architecture", "reason"),
    [
        ("NoSuchForCausalLM", "SGLang has no such model"),
        ("BaichuanForCausalLM", "of another form (no input_embeds)"),
        ("GPT2LMHeadModel", "no plain language model"),
        ("Qwen2_5_VLForConditionalGeneration", "no plain language model"),
        ("Qwen3_5ForConditionalGeneration", "a state beside keys and values"),
        ("Gemma4ForCausalLM", "were never tried"),
        ("NemotronHForCausalLM", "no vector gets in"),
    ],
)
def test_those_that_do_not_fit_are_refused(architecture: str, reason: str) -> None:
    with pytest.raises(LaunchError) as caught:
        check_architecture(Role.AV, CHECKPOINT, replace(QWEN, architecture=architecture))
    assert f"owner/x: a verbalizer of architecture {architecture} is not supported: " in str(caught.value)
    assert reason in str(caught.value)
    assert "Qwen3ForCausalLM" in str(caught.value)
