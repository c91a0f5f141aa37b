"""Value heads with a bias, under other names, behind the final norm, or none at all: as transformers has it."""

from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from tests.checkpoints import D_MODEL, make_pair
from tests.plain import assert_rebuilt
from tests.reference import ReferenceReconstructor
from tests.stack import serving

TEXTS = ("A short text.", "no full stop", "日本 and 'quotes'", "")


@pytest.mark.parametrize("kind", ["bias-and-norm", "none"])
def test_reconstruction_equals_transformers(tmp_path: Path, kind: str) -> None:
    pair = make_pair(tmp_path, "qwen3", final_norm=kind == "bias-and-norm")
    torch.manual_seed(1)
    weight, bias, rules = torch.eye(D_MODEL), torch.zeros(D_MODEL), {"value_head": "none"}
    if kind == "bias-and-norm":
        weight, bias = torch.randn(D_MODEL, D_MODEL) / D_MODEL**0.5, torch.randn(D_MODEL)
        file = "another_head.safetensors"
        save_file({"value_head.weight": weight, "value_head.bias": bias, "other": bias.clone()}, pair.ar / file)
        head = {"file": file, "weight": "value_head.weight", "bias": "value_head.bias"}
        rules = {"value_head": head, "final_norm": True}
    reference = ReferenceReconstructor(pair.ar)
    reference.head = weight
    if kind == "bias-and-norm":
        reference.model.norm = reference.final_norm

    preset = {"name": "own", "av": None, "ar": str(pair.ar), "reconstructor": rules}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(preset))
    flags = ("--only", "ar", "--preset", str(tmp_path / "own.yaml"), "--device", "cpu", "--dtype", "float32")
    with serving(tmp_path / "log", *flags) as stack:
        assert_rebuilt(stack, TEXTS, lambda text: reference.vector(text) + bias.numpy())
