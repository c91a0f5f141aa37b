"""Whatever a checkpoint lacks is found while it is loaded, quantized or not."""

import itertools
import json
import os
import subprocess
import sys
from typing import Any, Final

import pytest
import torch
from torch import nn

from nla_engine.weights import load_completely
from tests.checkpoints import Family, make_pair
from tests.engine.quantized import FORMATS, write_quantized
from tests.stack import ON_CPU, free_port

FAMILIES: Final[tuple[Family, ...]] = ("qwen2", "llama", "gemma3")
FUSED: Final = "model.layers.1.self_attn.qkv_proj.weight"
ONLINE: Final = "online-fp8"
"""Not a format: a plain checkpoint, quantized by SGLang."""
WAYS: Final = (ONLINE, *FORMATS)
SCALES: Final = {"fp8": "weight_scale_inv", "compressed-fp8": "weight_scale", "compressed-int8": "weight_scale"}
SOME: Final = 400
"""Values of a parameter; a key projection may be as small a part of a fused one as one in 66."""
DTYPES: Final = (
    torch.float32,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.int8,
    torch.uint8,
    torch.int32,
)


class Model(nn.Module):
    def __init__(self, dtype: torch.dtype = torch.float32, quant_config: object = None) -> None:
        super().__init__()
        self.quant_config = quant_config
        self.first = nn.Parameter(torch.zeros(SOME, dtype=dtype), requires_grad=False)
        self.second = nn.Parameter(torch.zeros(SOME, dtype=dtype), requires_grad=False)


def ordinary(dtype: torch.dtype) -> torch.Tensor:
    """Values as a checkpoint holds them, the extremes among them."""
    if dtype.is_floating_point:
        return torch.linspace(-400, 400, SOME).to(dtype)
    limits = torch.iinfo(dtype)
    return torch.linspace(limits.min, limits.max, SOME, dtype=torch.float64).clamp(limits.min, limits.max).to(dtype)


@pytest.mark.parametrize("quant_config", [None, "fp8"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("there", [0, SOME - SOME // 66, SOME])
def test_what_is_not_loaded_is_named_in_every_type(dtype: torch.dtype, quant_config: object, there: int) -> None:
    def load(model: Model) -> None:
        model.first.copy_(ordinary(dtype))
        model.second[:there] = ordinary(dtype)[:there]

    model = Model(dtype, quant_config)
    if there == SOME:
        load_completely(load, model)
        assert torch.equal(model.second.view(torch.uint8), ordinary(dtype).view(torch.uint8))
    else:
        with pytest.raises(ValueError, match="lacks these weights.*: second$"):
            load_completely(load, model)


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        (torch.float32, NAN),
        (torch.float32, -INF),
        (torch.bfloat16, INF),
        (torch.float8_e4m3fn, NAN),  # it has no infinity
        (torch.float8_e5m2, INF),
    ],
)
def test_values_that_are_no_numbers_are_named(dtype: torch.dtype, value: float) -> None:
    def load(model: Model) -> None:
        for parameter in model.parameters():
            parameter.copy_(ordinary(dtype))
        model.second[-1] = value

    with pytest.raises(ValueError, match=": second$"):
        load_completely(load, Model(dtype))


def test_a_scale_that_no_checkpoint_carries_keeps_its_value() -> None:
    def load(model: Model) -> None:
        model.first.fill_(1.0)

    model = Model()
    model.second._skip_weight_check = True  # type: ignore[attr-defined]  # as SGLang marks it
    load_completely(load, model)
    assert not model.second.any()


Loaded = dict[tuple[str, ...], str | None]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    """What SGLang's loader made of each checkpoint, by family, part, way and what was lost."""
    folder, tasks = tmp_path_factory.mktemp("weights"), dict[tuple[str, ...], dict[str, Any]]()
    for family in FAMILIES:
        pair = make_pair(folder / family, family)
        name = {"qwen2": "Qwen2", "llama": "Llama", "gemma3": "Gemma3"}[family]
        override = json.dumps({"architectures": [f"{name}Reconstructor", f"{name}ForCausalLM"]})
        for source, way in itertools.product((pair.av, pair.ar), WAYS):
            for lost in (
                "",
                "layers.1.self_attn.q_proj.weight",
                "layers.2.",
                f"layers.1.self_attn.k_proj.{SCALES.get(way)}",
            ):
                key = (family, source.name, way, lost)
                if lost.endswith("None") or (source == pair.ar and lost == "layers.2."):
                    continue
                made = folder / "-".join(key)
                write_quantized(source, made, "plain" if way == ONLINE else way, lost)
                task: dict[str, Any] = {"model_path": str(made), "quantization": "fp8" if way == ONLINE else None}
                if source == pair.ar:
                    task |= {"is_embedding": True, "json_model_override_args": override}
                tasks[key] = task
    environment = os.environ | ON_CPU | {"SGLANG_EXTERNAL_MODEL_PACKAGE": "nla_engine.models"}
    command = [sys.executable, "-m", "tests.engine.loading", str(folder / "answers"), str(free_port())]
    run = subprocess.run(
        command, input=json.dumps(list(tasks.values())), env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr[-4000:]
    return dict(zip(tasks, json.loads((folder / "answers").read_text()), strict=True))


@pytest.mark.parametrize("way", WAYS)
def test_complete_checkpoints_load(loaded: Loaded, way: str) -> None:
    answers = {key: answer for key, answer in loaded.items() if key[2] == way and not key[3]}
    assert len(answers) == 2 * len(FAMILIES)
    assert not any(answers.values()), answers
