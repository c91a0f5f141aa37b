"""Before an engine starts again its files are checked again: what is served does not change under its callers."""

from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from nla_gateway.roles import Role
from nla_launch.errors import LaunchError
from nla_launch.run.service import _check_again
from tests.checkpoints import make_pair
from tests.launch.run.test_reference import planned


def test_an_engine_does_not_come_back_with_other_weights(tmp_path: Path) -> None:
    pair = make_pair(tmp_path, "qwen2")
    plan = planned(Role.AV, str(pair.av))
    assert plan.fingerprint is not None
    _check_again(plan)
    tensors = load_file(weights := pair.av / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"] *= 1.001
    save_file(tensors, weights, {"format": "pt"})
    with pytest.raises(LaunchError, match=f"{pair.av}: its files are others than those that were served: start"):
        _check_again(plan)
