"""A source beside the pair: its memory, its command, and the plan of three engines."""

import json
from dataclasses import replace

import pytest

from nla_gateway.roles import Role
from nla_launch.errors import LaunchError
from nla_launch.flags import build_parser
from nla_launch.pair.preset import Preset
from nla_launch.plan.advice import plan_or_advise
from nla_launch.plan.describe import describe
from nla_launch.plan.fitting import charge, usable
from nla_launch.plan.gpus import Gpu
from nla_launch.plan.memory import PREFILL_TOKENS, Load
from nla_launch.plan.nodes import Nodes
from nla_launch.plan.placement import GpuChoice, Request, plan_pair
from nla_launch.plan.plan import EnginePlan
from nla_launch.plan.planning import read_request
from tests.launch.shapes import GEMMA_12B, LLAMA, QWEN, gpus, pair, plan_one

CPU = Request(device="cpu")
QWEN_20 = replace(QWEN, blocks=21)


def all_three(shape: str, request: Request, here: list[Gpu]) -> list[EnginePlan]:
    return plan_pair(pair(shape, *Role), request, here)


def load(config: object, role: Role = Role.SOURCE, context: int = 0) -> Load:
    return Load(role, config, "bfloat16", None, 1, context)  # type: ignore[arg-type]


def test_its_weights_are_the_first_blocks_and_one_table() -> None:
    verbalizer, source = load(LLAMA, Role.AV), load(replace(LLAMA, blocks=54))
    table = 2 * 128256 * 8192
    blocks = (verbalizer.weights - 2 * table) // 80
    assert source.weights == 54 * blocks + table


def test_rows_of_all_tokens_of_a_batch_have_room() -> None:
    rows = 4 * PREFILL_TOKENS * QWEN.d_model
    assert load(QWEN).working(1) == load(QWEN, Role.AR).working(1) + rows
    # A prompt is never cut, so that a longer one is computed at a time.
    assert load(QWEN, context=4 * PREFILL_TOKENS).working(1) > 3 * (load(QWEN).working(1) - 1_500_000_000)


def test_pools_hold_two_of_the_longest_texts() -> None:
    usual = plan_one(Role.SOURCE, QWEN_20, here=gpus(1, 80))
    assert (usual.context_length, usual.pool_tokens) == (8192, 16_384)
    short = plan_one(Role.SOURCE, QWEN_20, Request(source_context=512), gpus(1, 80))
    assert (short.context_length, short.pool_tokens) == (512, 16_384)
    long = plan_one(Role.SOURCE, QWEN_20, Request(source_context=100_000), gpus(1, 80))
    assert (long.context_length, long.pool_tokens) == (QWEN.max_positions, 2 * QWEN.max_positions)
    tight = plan_one(Role.SOURCE, QWEN_20, Request(source_context=2048), gpus(1, 16))
    assert 4096 <= tight.pool_tokens < 16_384


def test_where_it_is_given_the_others_contexts_stay() -> None:
    engines = all_three("qwen2.5-7b-l20", Request(source_context=4096), gpus(1, 80))
    assert [engine.context_length for engine in engines] == [2048, 2048, 4096]
    command = engines[2].command(1, "k")
    assert command[command.index("--context-length") + 1] == "4096"


def test_on_a_cpu() -> None:
    source, ar = plan_one(Role.SOURCE, QWEN_20, CPU), plan_one(Role.AR, QWEN_20, CPU)
    assert (source.pool_tokens, source.max_in_flight, source.shared_in_flight) == (16_384, 8, 1)
    assert (source.max_in_flight, source.shared_in_flight) == (ar.max_in_flight, ar.shared_in_flight)
    assert "--max-prefill-tokens" not in source.command(1, "k")


@pytest.mark.parametrize("request_", [Request(), CPU])
def test_its_command(request_: Request) -> None:
    changed = {"num_hidden_layers": 21, "layer_types": ["full_attention"] * 21}
    engine = plan_one(Role.SOURCE, replace(QWEN_20, changed=changed), request_, gpus(1, 80))
    command = " ".join(engine.command(1, "k"))
    for part in ("--is-embedding", "--disable-radix-cache", "--chunked-prefill-size -1"):
        assert command.count(part) == 1
    assert command.endswith(json.dumps(changed))
    assert engine.environment()["NLA_ENGINE_ROLE"] == "source"
    assert json.loads(engine.environment()["NLA_ENGINE_CHECKPOINT"]) == {
        "architecture": "Qwen2ForCausalLM",
        "blocks": 21,
        "files": None,
    }


def test_three_engines_share_the_first_gpus_and_are_summed_up() -> None:
    here = gpus(2, 80)
    engines = all_three("qwen2.5-7b-l20", Request(tp=2), here)
    assert [engine.role for engine in engines] == list(Role)
    plan = describe(engines, mps=False)
    assert "0-1          verbalizer 1" in plan
    for part in (
        " + reconstructor ",
        " + source ",
        "so that all may be slower",
        "--av-gpus with --ar-gpus and --source-gpus",
    ):
        assert part in plan
    taken = [one.peak for engine in engines if (one := charge(engine)) is not None]
    assert len(taken) == 3
    assert sum(taken) <= (usable(here[0]) or 0)


def test_those_that_share_a_gpu_are_sized_together() -> None:
    here = [*gpus(1, 40), Gpu(1, "large", 80 * 10**9, (9, 0))]
    apart = Request(gpus=GpuChoice(own={Role.AV: (0,), Role.AR: (0,), Role.SOURCE: (1,)}))
    av, ar, source = all_three("qwen2.5-7b-l20", apart, here)
    assert source.pool_tokens == 16_384
    room = usable(here[0]) or 0
    assert 0.97 * room < sum(one.peak for engine in (av, ar) if (one := charge(engine)) is not None) <= room


def test_over_several_machines_each_has_its_ports() -> None:
    engines = all_three("llama-3.3-70b-l53", Request(tp=16, nodes=Nodes(2, 1, "first", 5000)), gpus(8, 80))
    for engine, port in zip(engines, (5000, 5020, 5040), strict=True):
        assert f"--dist-init-addr first:{port} " in " ".join(engine.command(1, "k"))


def test_its_gpus_are_named_where_the_others_are() -> None:
    split = Request(gpus=GpuChoice(own={Role.AV: (0,), Role.AR: (1,)}))
    with pytest.raises(LaunchError, match="--av-gpus and --ar-gpus and --source-gpus go together"):
        all_three("qwen2.5-7b-l20", split, gpus(3, 80))
    with pytest.raises(LaunchError, match=r"^--av-gpus and --ar-gpus go together"):
        plan_pair(pair("qwen2.5-7b-l20"), Request(gpus=GpuChoice(own={Role.AV: (0,)})), gpus(3, 80))
    with pytest.raises(LaunchError, match="--source-gpus go together"):
        plan_pair(pair("qwen2.5-7b-l20"), Request(gpus=GpuChoice(own=dict.fromkeys(Role, (0,)))), gpus(3, 80))


def advised(flags: list[str], here: list[Gpu], shape: str = "qwen2.5-7b-l20") -> str:
    request = read_request(Preset(name="x", av=None, ar=None), build_parser().parse_args(flags))
    with pytest.raises(LaunchError) as caught:
        plan_or_advise(pair(shape, *Role), request, here)
    return str(caught.value)


def test_without_the_source_is_one_of_the_ways() -> None:
    message = advised([], gpus(1, 40))
    assert message.startswith("verbalizer 15.2 GB + reconstructor 10.9 GB + source ")
    assert message.endswith("or use --source none")
    assert advised(["--tp", "8"], gpus(8, 80)).endswith("use --tp 4 --dp 2")


def test_flags_that_would_be_left_over_are_named() -> None:
    named = ["--av-gpus", "0", "--ar-gpus", "1", "--source-gpus", "2"]
    here = [*gpus(2, 24), Gpu(2, "small", 10 * 10**9, (9, 0))]
    assert "--source none" in (message := advised(named, here))
    assert "without" in message
    assert "--source-gpus" in message


def test_a_wide_model_gets_its_backend() -> None:
    assert plan_one(Role.SOURCE, GEMMA_12B, here=gpus(1, 80)).attention_backend == "fa3"
