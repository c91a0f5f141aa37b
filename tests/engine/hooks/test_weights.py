"""Whatever a checkpoint lacks is found while it is loaded, quantized or not."""

import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import torch
from torch import nn

from nla_engine.checkpoint import VARIABLE
from nla_engine.hooks.weights import load_completely
from tests.checkpoints import Family, Pair, make_pair
from tests.engine.hooks.quantized import write_quantized
from tests.warm import run

FAMILIES: Final[tuple[Family, ...]] = ("qwen2", "llama", "gemma3")
NAMES: Final[dict[Family, str]] = {"qwen2": "Qwen2", "llama": "Llama", "gemma3": "Gemma3"}
ONLINE: Final = "online-fp8"
"""Not a format: a plain checkpoint, quantized by SGLang once it is loaded."""
WAYS: Final = {
    ONLINE: "bfloat16",
    "plain": "bfloat16",
    "fp8": "float8_e4m3fn",
    "compressed-fp8": "float8_e4m3fn",
    "compressed-int8": "int8",
}
"""The weights' type while they are loaded, by the way in which that is done."""
DROPPED: Final[tuple[Family, str]] = ("llama", "fp8")
"""Of a Llama's scales for blocks SGLang 0.5.23 changes the name, and finds no parameter for it."""
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


@pytest.fixture(autouse=True)
def without_adapters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, '{"architecture": "Model"}')


@pytest.mark.parametrize("quant_config", [None, "fp8"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("there", [0, SOME - SOME // 66, SOME])
def test_what_is_not_loaded_is_named_in_every_type(dtype: torch.dtype, quant_config: object, there: int) -> None:
    def load(model: Model, weights: object) -> None:
        model.first.copy_(ordinary(dtype))
        model.second[:there] = ordinary(dtype)[:there]

    model = Model(dtype, quant_config)
    if there == SOME:
        load_completely(load, model, [])
        assert torch.equal(model.second.view(torch.uint8), ordinary(dtype).view(torch.uint8))
    else:
        with pytest.raises(ValueError, match=r"lacks these weights.*: second$"):
            load_completely(load, model, [])


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
    def load(model: Model, weights: object) -> None:
        for parameter in model.parameters():
            parameter.copy_(ordinary(dtype))
        model.second[-1] = value

    with pytest.raises(ValueError, match=r": second$"):
        load_completely(load, Model(dtype), [])


def test_a_scale_that_no_checkpoint_carries_keeps_its_value() -> None:
    def load(model: Model, weights: object) -> None:
        model.first.fill_(1.0)

    model = Model()
    model.second._skip_weight_check = True  # type: ignore[attr-defined]  # as SGLang marks it
    load_completely(load, model, [])
    assert not model.second.any()


@dataclass(frozen=True)
class Case:
    """A checkpoint to load: of which family and part, in which way, and what its files lack."""

    family: Family
    role: str
    way: str
    lost: str = ""

    @property
    def fused(self) -> str:
        """The parameter that this is a part of."""
        return re.sub("[qk]_proj", "qkv_proj", self.lost)


def all_cases() -> Iterator[Case]:
    for family, role, way in itertools.product(FAMILIES, ("av", "ar"), WAYS):
        if (family, way) == DROPPED or (role == "ar" and way not in (ONLINE, "compressed-fp8")):
            continue
        yield Case(family, role, way)
        yield Case(family, role, way, "model.layers.1.self_attn.q_proj.weight")
        if (scale := SCALES.get(way)) is not None:
            yield Case(family, role, way, f"model.layers.0.self_attn.k_proj.{scale}")


CASES: Final = list(all_cases())
UNREAD: Final = Case(DROPPED[0], "av", DROPPED[1])


def make(case: Case, pair: Pair, folder: Path) -> dict[str, Any]:
    """Write a case's checkpoint; returns how SGLang is to load it."""
    source = pair.av if case.role == "av" else pair.ar
    write_quantized(source, folder, "plain" if case.way == ONLINE else case.way, case.lost)
    task = {"model_path": str(folder), "quantization": "fp8" if case.way == ONLINE else None, "role": case.role}
    told = {"architecture": f"{NAMES[case.family]}ForCausalLM"}
    if case.role == "av":
        return task | {"told": told}
    head = {"file": str(folder / "value_head.safetensors"), "weight": "weight"}
    return task | {"is_embedding": True, "told": told | {"value_head": head}}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> dict[Case, tuple[str | None, str]]:
    """What SGLang's own loader made of each case: what was wrong, and the type of the weights."""
    folder = tmp_path_factory.mktemp("weights")
    pairs = {family: make_pair(folder / family, family) for family in FAMILIES}
    tasks = [make(case, pairs[case.family], folder / f"case{number}") for number, case in enumerate((*CASES, UNREAD))]
    (folder / "tasks").write_text(json.dumps(tasks))
    done = run("tests.engine.hooks.loading", str(folder / "tasks"), str(folder / "answers"))
    assert done.returncode == 0, done.stderr[-4000:]
    answers = json.loads((folder / "answers").read_text())
    return {case: tuple(answer) for case, answer in zip((*CASES, UNREAD), answers, strict=True)}


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(vars(case).values()))
def test_sglang_loads_a_whole_checkpoint_and_names_what_another_lacks(
    loaded: dict[Case, tuple[str | None, str]], case: Case
) -> None:
    wrong, dtype = loaded[case]
    assert dtype == f"torch.{WAYS[case.way]}"
    if case.lost:
        assert wrong is not None
        assert wrong.endswith(f" in them: {case.fused}")
    else:
        assert wrong is None


def test_what_sglang_itself_leaves_out_is_named(loaded: dict[Case, tuple[str | None, str]]) -> None:
    wrong, _ = loaded[UNREAD]
    assert wrong is not None
    assert "model.layers.0.self_attn.qkv_proj.weight_scale_inv" in wrong
