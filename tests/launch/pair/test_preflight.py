"""Checkpoints that cannot be served: exit code 2 before any engine starts, one clear line."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from nla_gateway.roles import Role
from nla_launch.errors import LaunchError
from nla_launch.pair.checkpoints import Checkpoint
from nla_launch.pair.preflight import check_checkpoints, describe_checkpoints
from nla_launch.pair.rules import NO_RULES, Rules
from tests.checkpoints import Pair, edit_head, edit_sidecar, make_tokenizer


def check(folders: dict[Role, Path], rules: Rules = NO_RULES) -> None:
    """Check as before a start."""
    checkpoints = {role: Checkpoint(folder.name, str(folder), folder) for role, folder in folders.items()}
    check_checkpoints(checkpoints, describe_checkpoints(checkpoints, rules))


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def with_nan(head: torch.Tensor) -> dict[str, torch.Tensor]:
    head[0, :3] = float("nan")
    return {"weight": head}


FAULTS: dict[str, tuple[Callable[[Pair], object], str]] = {
    "no sidecar": (lambda p: (p.av / "nla_meta.yaml").unlink(), "has no nla_meta.yaml"),
    "no config": (lambda p: (p.ar / "config.json").unlink(), "has no config.json"),
    "no weights": (lambda p: (p.av / "model.safetensors").unlink(), "no *.safetensors weights"),
    "no head": (lambda p: (p.ar / "value_head.safetensors").unlink(), "has no value_head.safetensors"),
    "nan in head": (lambda p: edit_head(p.ar, with_nan), "has 3 NaN or infinite values"),
    "small head": (lambda p: edit_head(p.ar, lambda h: {"weight": h[:8].clone()}), "must be [d_model, d_model]"),
    "named head": (lambda p: edit_head(p.ar, lambda h: {"head": h}), "has the keys `head`, not `weight` alone"),
    "small bias": (
        lambda p: edit_head(p.ar, lambda h: {"weight": h, "bias": torch.ones(3)}),
        "the value head's bias is [3], it must be [d_model]",
    ),
    "swapped": (lambda p: shutil.copy(p.ar / "value_head.safetensors", p.av), "are --av and --ar swapped?"),
    "config d_model": (lambda p: edit_config(p.av, hidden_size=32), "hidden_size 32"),
    "blocks": (lambda p: edit_config(p.ar, num_hidden_layers=3), "has 2 blocks"),
    "layers differ": (lambda p: edit_sidecar(p.av, {"extraction_layer_index": 2}), "no pair"),
    "two markers": (
        lambda p: edit_sidecar(p.av, {"prompt_templates.av": "{injection_char}{injection_char}"}),
        "must be once",
    ),
    "neighbours": (lambda p: edit_sidecar(p.av, {"tokens.injection_right_neighbor_id": 1}), "beside the marker"),
    "wrong tokenizer": (lambda p: make_tokenizer("llama").save_pretrained(p.av), "encodes to"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_is_one_clear_line(pair: Pair, fault: str) -> None:
    break_it, message = FAULTS[fault]
    break_it(pair)
    with pytest.raises(LaunchError) as caught:
        check({Role.AV: pair.av, Role.AR: pair.ar})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_d_model_differs_between_the_two(pair: Pair) -> None:
    edit_config(pair.av, hidden_size=32)
    edit_sidecar(pair.av, {"d_model": 32})
    with pytest.raises(LaunchError, match="no pair: the verbalizer's d_model is 32, the reconstructor's 64"):
        check({Role.AV: pair.av, Role.AR: pair.ar})


def test_a_good_pair_passes(pair: Pair) -> None:
    check({Role.AV: pair.av, Role.AR: pair.ar})
    check({Role.AV: pair.av})
    check({Role.AR: pair.ar})
