"""One engine's command line and environment: the arguments that matter."""

import argparse
import json
from pathlib import Path

import pytest

from nla_engine.checkpoint import Checkpoint, Injection
from nla_gateway.roles import Role
from nla_launch.flags import build_parser
from nla_launch.pair.preset import load_preset
from nla_launch.plan import planning
from nla_launch.plan.asked import Asked
from nla_launch.plan.gpus import Gpu
from nla_launch.plan.nodes import Nodes
from nla_launch.plan.placement import Request
from tests.launch.shapes import GEMMA_12B, GEMMA_27B, LLAMA, QWEN, gpus, plan_one

CPU = Request(device="cpu")


def test_headline_verbalizer_on_eight_gpus() -> None:
    engine = plan_one(Role.AV, LLAMA, Request(tp=8), gpus(8, 80))
    command = " ".join(engine.command(1, "k"))
    assert "--tp-size 8 " in command
    assert "--dp-size" not in command
    assert "--max-total-tokens 131072 --max-running-requests 256" in command
    assert engine.environment()["CUDA_VISIBLE_DEVICES"] == "0,1,2,3,4,5,6,7"
    assert engine.dtype == "bfloat16"


def test_what_flags_add() -> None:
    request = Request(dp=2, quantization="fp8", trust_remote_code=True)
    command = " ".join(plan_one(Role.AV, QWEN, request, gpus(2, 80)).command(1, "k"))
    for part in ("--tp-size 1 --dp-size 2", "--quantization fp8", "--trust-remote-code"):
        assert part in command
    plain = plan_one(Role.AV, QWEN, here=gpus(2, 80)).command(1, "k")
    assert not {"--dp-size", "--quantization", "--trust-remote-code", "--nnodes"} & set(plain)


@pytest.mark.parametrize(
    ("request_", "here"),
    [
        (Request(tp=2, dp=2, quantization="fp8", trust_remote_code=True), gpus(4, 80)),
        (Request(tp=16, nodes=Nodes(2, 1, "first", 5000)), gpus(8, 80)),
        (Request(tp=2, device="cpu"), []),
    ],
)
def test_sglang_understands_every_argument(request_: Request, here: list[Gpu]) -> None:
    from sglang.srt.server_args import ServerArgs, add_attention_backend_choices

    add_attention_backend_choices(["nla_cpu"])  # as our platform does
    parser = argparse.ArgumentParser(exit_on_error=False, allow_abbrev=False)
    ServerArgs.add_cli_args(parser)
    for role in Role:
        engine = plan_one(role, GEMMA_12B, request_, here)
        understood = parser.parse_args(engine.command(1, "k")[4:])
        assert (understood.tp_size, understood.dp_size) == (engine.tp, engine.dp)
        assert understood.max_total_tokens == engine.pool_tokens
        assert understood.trust_remote_code == request_.trust_remote_code


def test_the_toy_pair_stays_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "find_gpus", lambda: gpus(8, 80))
    arguments = build_parser().parse_args(["--preset", "toy", "--dry-run"])
    (toy,) = planning.plan_all([Asked(load_preset("toy"), arguments)])
    assert {engine.device for engine in toy.engines} == {"cpu"}
    # Their weights are here, and counted.
    assert all(engine.config is not None and engine.config.stored is not None for engine in toy.engines)


def test_multimodal_verbalizer_runs_our_class() -> None:
    engine = plan_one(Role.AV, GEMMA_27B, Request(tp=2), gpus(2, 80))
    assert '{"architectures": ["Gemma3ForCausalLM"], "language_model_only": true}' in engine.command(1, "k")
    assert json.loads(engine.environment()["NLA_ENGINE_CHECKPOINT"])["architecture"] == "Gemma3ForCausalLM"


def test_an_engine_is_told_what_it_serves() -> None:
    av, ar = (plan_one(role, QWEN, CPU).environment()["NLA_ENGINE_CHECKPOINT"] for role in (Role.AV, Role.AR))
    assert Checkpoint.model_validate_json(av).injection == Injection(rule="replace")
    told = Checkpoint.model_validate_json(ar)
    assert (told.architecture, told.blocks, told.final_norm) == ("Qwen2ForCausalLM", QWEN.blocks, False)
    assert told.value_head is not None
    assert (told.value_head.file.name, told.value_head.weight) == ("value_head.safetensors", "weight")


def test_radix_cache_stays_on_for_the_verbalizer_alone() -> None:
    assert "--disable-radix-cache" not in plan_one(Role.AV, QWEN, here=gpus(1, 80)).command(1, "k")
    assert "--disable-radix-cache" in plan_one(Role.AR, QWEN, here=gpus(1, 80)).command(1, "k")


def test_engine_args_come_last_and_so_override(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: x\nav: a/b\nar: a/c\nengine_args: {av: [--max-total-tokens, '4096']}")
    arguments = build_parser().parse_args(["--preset", str(path), "--device", "cpu", "--dry-run"])
    (own,) = planning.plan_all([Asked(load_preset(str(path)), arguments)])
    av, ar = (engine.command(1, "k") for engine in own.engines)
    assert av[-2:] == ["--max-total-tokens", "4096"]
    assert "4096" not in ar


def test_engines_on_a_cpu() -> None:
    av, ar = plan_one(Role.AV, QWEN, CPU), plan_one(Role.AR, QWEN, CPU)
    assert (av.concurrency, av.pool_tokens, av.max_in_flight, av.shared_in_flight) == (64, 32_768, 72, 8)
    assert (ar.pool_tokens, ar.max_in_flight, ar.shared_in_flight) == (16_384, 8, 1)
    # Nearly all that is free: with SGLang's share for GPUs, weights of 1 GB would not start on 7 GB.
    assert av.memory_share == ar.memory_share == 0.85


def test_cpu_engines_keep_off_the_gpus() -> None:
    environment = plan_one(Role.AV, QWEN, Request(tp=2, device="cpu")).environment()
    assert environment["SGLANG_PLATFORM"] == "nla_cpu"
    assert environment["CUDA_VISIBLE_DEVICES"] == ""
    assert environment["SGLANG_CPU_OMP_THREADS_BIND"].count("|") == 1
    replicas = plan_one(Role.AV, QWEN, Request(tp=2, dp=2, device="cpu")).environment()
    assert replicas["SGLANG_CPU_OMP_THREADS_BIND"].count("|") == 3
