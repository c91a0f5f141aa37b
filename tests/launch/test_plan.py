"""The plan for the released shapes, and the arguments that matter."""

import dataclasses
from pathlib import Path

import pytest

from nla_launch import planning
from nla_launch.checkpoints import Checkpoint
from nla_launch.cli import build_parser
from nla_launch.errors import LaunchError
from nla_launch.gpus import Gpu
from nla_launch.model_config import ModelConfig
from nla_launch.plan import OVERRIDES, EnginePlan, Request, fit_memory, plan_engine
from nla_launch.preflight import Role
from nla_launch.preset import load_preset

QWEN = ModelConfig("Qwen2ForCausalLM", 3584, 28, 28, 4, 128, 18944, 152064, 32768, False)
LLAMA = ModelConfig("LlamaForCausalLM", 8192, 80, 64, 8, 128, 28672, 128256, 131072, False)
GEMMA = ModelConfig("Gemma3ForConditionalGeneration", 5376, 62, 32, 16, 128, 21504, 262208, 131072, True)
GEMMA_12B = ModelConfig("Gemma3ForCausalLM", 3840, 48, 16, 8, 256, 15360, 262208, 131072, True)
TEXT = {name: name for name in OVERRIDES["ar"]} | {"Gemma3ForConditionalGeneration": "Gemma3ForCausalLM"}
CHECKPOINT = Checkpoint("name", "owner/name", None)


def gpus(count: int, gigabytes: int) -> list[Gpu]:
    return [Gpu(i, "test", gigabytes * 10**9) for i in range(count)]


def plan(role: Role, config: ModelConfig, tp: int, found: list[Gpu], device: str = "auto") -> EnginePlan:
    request = Request(tp, device, "auto", None, {})  # type: ignore[arg-type]
    return plan_engine(role, CHECKPOINT, config, request, found, dry_run=False)


def test_parameters_are_counted_right() -> None:
    assert QWEN.parameters == pytest.approx(7.6e9, rel=0.02)
    assert LLAMA.parameters == pytest.approx(70.6e9, rel=0.02)
    assert LLAMA.kv_bytes_per_token("bfloat16") == 327_680


def test_headline_pair_on_eight_gpus() -> None:
    engines = [plan("av", LLAMA, 8, gpus(8, 80)), plan("ar", dataclasses.replace(LLAMA, blocks=54), 8, gpus(8, 80))]
    assert fit_memory(engines, gpus(8, 80)) == engines
    assert engines[0].gpus == tuple(range(8))
    assert engines[0].dtype == "bfloat16"


def test_too_big_for_the_gpus_says_the_numbers() -> None:
    engines = [plan("av", LLAMA, 1, gpus(1, 80))]
    with pytest.raises(LaunchError, match=r"verbalizer 141\.\d GB \+ KV 2\.7 GB > 70\.0 GB a GPU"):
        fit_memory(engines, gpus(1, 80))


@pytest.mark.parametrize(("config", "tp"), [(QWEN, 1), (GEMMA_12B, 1), (GEMMA, 2), (LLAMA, 4)])
def test_pools_shrink_to_what_the_weights_leave(config: ModelConfig, tp: int) -> None:
    shortened = dataclasses.replace(config, blocks=config.blocks * 2 // 3, architecture=TEXT[config.architecture])
    engines = fit_memory([plan("av", config, tp, gpus(tp, 80)), plan("ar", shortened, tp, gpus(tp, 80))], gpus(tp, 80))
    taken = sum((engine.weight_bytes or 0) + (engine.pool_bytes or 0) for engine in engines)
    assert taken <= 68e9
    assert engines[0].pool_tokens > 20_000


def test_the_demo_stays_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "find_gpus", lambda: gpus(8, 80))
    arguments = build_parser().parse_args(["--preset", "demo", "--dry-run"])
    assert {engine.device for engine in planning.plan_all(load_preset("demo"), arguments)} == {"cpu"}


def test_tp_must_divide_the_heads() -> None:
    with pytest.raises(LaunchError, match="use --tp 4"):
        plan("av", QWEN, 8, gpus(8, 80))


def test_more_tp_than_gpus() -> None:
    with pytest.raises(LaunchError, match="this machine has 2"):
        plan("av", LLAMA, 4, gpus(2, 80))


def test_unsupported_architecture() -> None:
    with pytest.raises(LaunchError, match="MistralForCausalLM is not supported"):
        plan("av", dataclasses.replace(QWEN, architecture="MistralForCausalLM"), 1, gpus(1, 80))
    with pytest.raises(LaunchError, match="reconstructor of architecture Gemma3ForConditionalGeneration"):
        plan("ar", GEMMA, 1, gpus(1, 80))


def test_large_models_do_not_land_on_the_cpu_by_themselves() -> None:
    with pytest.raises(LaunchError, match="no CUDA GPU found"):
        plan("av", QWEN, 1, [])
    assert plan("av", QWEN, 1, [], device="cpu").dtype == "float32"


def test_multimodal_verbalizer_runs_our_class() -> None:
    engine = plan("av", GEMMA, 2, gpus(2, 80))
    assert "Gemma3MultimodalVerbalizer" in " ".join(engine.command(1, "k"))
    assert engine.environment()["SGLANG_EXTERNAL_MODEL_PACKAGE"] == "nla_engine.models"


def test_radix_cache_stays_on_for_the_verbalizer_alone() -> None:
    assert "--disable-radix-cache" not in plan("av", QWEN, 1, gpus(1, 80)).command(1, "k")
    assert "--disable-radix-cache" in plan("ar", QWEN, 1, gpus(1, 80)).command(1, "k")


def test_engine_args_come_last_and_so_override(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: x\nav: a/b\nar: a/c\nengine_args: {av: [--max-total-tokens, '4096']}")
    arguments = build_parser().parse_args(["--preset", str(path), "--device", "cpu", "--dry-run"])
    av, ar = (engine.command(1, "k") for engine in planning.plan_all(load_preset(str(path)), arguments))
    assert av[-2:] == ["--max-total-tokens", "4096"]
    assert "4096" not in ar


def test_cpu_engines_keep_off_the_gpus() -> None:
    environment = plan("av", QWEN, 2, [], device="cpu").environment()
    assert environment["SGLANG_PLATFORM"] == "nla_cpu"
    assert environment["CUDA_VISIBLE_DEVICES"] == ""
    assert "|" in environment["SGLANG_CPU_OMP_THREADS_BIND"]
