"""Bytes, against figures that were counted otherwise."""

import pytest

from nla_gateway.roles import Role
from nla_launch.plan.memory import Load
from tests.launch.shapes import GEMMA_12B, GEMMA_27B, LLAMA, QWEN, pair


def load_of(shape: str, role: Role, tp: int = 1, **changes: object) -> Load:
    config = pair(shape)[role].config
    assert config is not None
    return Load(**{"role": role, "config": config, "dtype": "bfloat16", "quantization": None, "tp": tp} | changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("config", "parameters"),
    # Hugging Face's counts; Gemma's without the vision tower, which is not loaded.
    [(QWEN, 7_615_616_512), (GEMMA_12B, 11_765_788_416), (GEMMA_27B, 27_009_346_304), (LLAMA, 70_553_706_496)],
)
def test_parameters(config: object, parameters: int) -> None:
    assert config.parameters == pytest.approx(parameters, rel=1e-3)  # type: ignore[attr-defined]


def test_a_reconstructor_has_no_lm_head_but_a_whole_value_head() -> None:
    verbalizer, reconstructor = load_of("llama-3.3-70b-l53", Role.AV), load_of("llama-3.3-70b-l53", Role.AR)
    table = 2 * 128256 * 8192
    blocks = (verbalizer.weights - 2 * table) // 80
    assert reconstructor.weights == 54 * blocks + table + 4 * 8192**2


def test_the_value_head_is_on_every_gpu() -> None:
    one, eight = load_of("llama-3.3-70b-l53", Role.AR), load_of("llama-3.3-70b-l53", Role.AR, 8)
    head = 4 * 8192**2
    assert eight.weights - head == (one.weights - head) // 8


def test_kv_pools() -> None:
    assert load_of("llama-3.3-70b-l53", Role.AV).pool(1) == 327_680
    assert load_of("llama-3.3-70b-l53", Role.AV, 8).pool(1) == 40_960
    # More GPUs than KV heads: several hold the same one.
    assert load_of("llama-3.3-70b-l53", Role.AV, 16).pool(1) == 40_960


def test_fp8_halves_the_blocks_alone_and_only_once_loaded() -> None:
    plain, fp8 = load_of("qwen2.5-7b-l20", Role.AV), load_of("qwen2.5-7b-l20", Role.AV, quantization="fp8")
    tables = 2 * 2 * 152064 * 3584
    assert fp8.weights == (plain.weights - tables) // 2 + tables
    assert fp8.loading > plain.weights
