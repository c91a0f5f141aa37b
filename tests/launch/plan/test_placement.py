"""Which GPUs an engine gets, and what is refused."""

import dataclasses

import pytest

from nla_gateway.roles import Role
from nla_launch.errors import LaunchError, PlanError
from nla_launch.plan.gpus import Gpu, supposed_gpus
from nla_launch.plan.nodes import Nodes
from nla_launch.plan.placement import GpuChoice, Request, plan_pair
from tests.launch.shapes import GEMMA_12B, LLAMA, QWEN, gpus, pair, plan_one


def placed(request: Request, here: list[Gpu], shape: str = "qwen2.5-7b-l20") -> list[tuple[int, ...]]:
    return [tuple(gpu.index for gpu in engine.gpus) for engine in plan_pair(pair(shape), request, here)]


def test_both_engines_share_the_first_gpus() -> None:
    assert placed(Request(tp=2), gpus(8, 80)) == [(0, 1), (0, 1)]
    assert placed(Request(tp=2, dp=2), gpus(8, 80)) == [(0, 1, 2, 3)] * 2


def test_named_gpus_say_the_tp() -> None:
    both = Request(gpus=GpuChoice((6, 1)))
    assert placed(both, gpus(8, 80)) == [(6, 1), (6, 1)]
    assert {engine.tp for engine in plan_pair(pair("qwen2.5-7b-l20"), both, gpus(8, 80))} == {2}
    split = Request(gpus=GpuChoice(own={Role.AV: (0, 1, 2, 3), Role.AR: (5, 7)}))
    engines = plan_pair(pair("qwen2.5-7b-l20"), split, gpus(8, 80))
    assert [engine.tp for engine in engines] == [4, 2]
    assert engines[1].environment()["CUDA_VISIBLE_DEVICES"] == "5,7"
    replicas = Request(gpus=GpuChoice((0, 1, 2, 3)), dp=2)
    assert {engine.tp for engine in plan_pair(pair("qwen2.5-7b-l20"), replicas, gpus(8, 80))} == {2}


def test_gpus_are_passed_on_by_the_drivers_numbers() -> None:
    here = [Gpu(0, "a", 80 * 10**9, (9, 0), 3), Gpu(1, "b", 80 * 10**9, (9, 0), 1)]
    environment = plan_one(Role.AV, QWEN, Request(tp=2), here).environment()
    assert environment["CUDA_VISIBLE_DEVICES"] == "3,1"
    assert environment["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request(tp=4), "--tp 4 needs 4 GPUs; this machine has 2"),
        (Request(tp=2, dp=2), "--tp 2 x --dp 2 needs 4 GPUs"),
        (Request(gpus=GpuChoice((1, 2))), "--gpus 1-2: this machine has GPUs 0-1"),
        (Request(tp=1, gpus=GpuChoice((0, 1))), "--gpus 0-1 names 2 GPUs; --tp 1 takes 1"),
        (Request(gpus=GpuChoice(own={Role.AV: (0,)})), "go together"),
        (Request(gpus=GpuChoice((0,), {Role.AV: (0,), Role.AR: (1,)})), "give either"),
        (Request(dp=2, nodes=Nodes(2, 0, "h", 1)), "--dp or --nnodes, not both"),
        (Request(tp=1, nodes=Nodes(2, 0, "h", 1)), "--tp 1 cannot be shared out over --nnodes 2"),
        (Request(device="cpu", gpus=GpuChoice((0,))), "runs on the CPU"),
        (Request(device="cpu", quantization="fp8"), "needs CUDA GPUs"),
        (Request(dtype="float32", quantization="fp8"), "needs --dtype bfloat16"),
    ],
)
def test_refused(request_: Request, message: str) -> None:
    with pytest.raises(LaunchError, match=message):
        plan_pair(pair("qwen2.5-7b-l20"), request_, gpus(2, 80))


def test_one_engine_alone_takes_its_own_flag() -> None:
    alone = pair("qwen2.5-7b-l20", Role.AR)
    assert plan_pair(alone, Request(gpus=GpuChoice(own={Role.AR: (1,)})), gpus(2, 80))[0].gpus[0].index == 1


def test_tp_must_divide_the_heads() -> None:
    with pytest.raises(PlanError, match=r"--tp 8 does not divide the verbalizer's 28 attention heads \(4 KV heads"):
        plan_one(Role.AV, QWEN, Request(tp=8), gpus(8, 80))


def test_several_machines() -> None:
    engines = plan_pair(pair("llama-3.3-70b-l53"), Request(tp=16, nodes=Nodes(2, 1, "first", 5000)), gpus(8, 80))
    assert [len(engine.gpus) for engine in engines] == [8, 8]
    for engine, port in zip(engines, (5000, 5020), strict=True):
        command = " ".join(engine.command(1, "k"))
        assert f"--tp-size 16 --nnodes 2 --node-rank 1 --dist-init-addr first:{port}" in command
    # Half of what eight GPUs hold each.
    alone = plan_one(Role.AV, LLAMA, Request(tp=8), gpus(8, 80)).load
    assert engines[0].load is not None
    assert alone is not None
    assert engines[0].load.weights < 0.52 * alone.weights


def test_unsupported_architecture() -> None:
    for role in Role:
        with pytest.raises(LaunchError, match=f"{role.label} of architecture GPT2LMHeadModel is not supported"):
            plan_one(role, dataclasses.replace(QWEN, architecture="GPT2LMHeadModel"), here=gpus(1, 80))


def test_large_models_do_not_land_on_the_cpu_by_themselves() -> None:
    with pytest.raises(LaunchError, match="no CUDA GPU found"):
        plan_one(Role.AV, QWEN)
    assert plan_one(Role.AV, QWEN, Request(device="cpu")).dtype == "float32"


def test_gpus_that_are_not_known_are_planned_without_sizes() -> None:
    engine = plan_one(Role.AV, LLAMA, Request(tp=2), supposed_gpus(2))
    assert (engine.device, engine.pool_tokens, engine.memory_share) == ("cuda", 131_072, 0.9)


@pytest.mark.parametrize(
    ("capability", "backend"),
    [((9, 0), "fa3"), ((8, 0), "flashinfer"), ((8, 9), "flashinfer"), ((10, 0), "flashinfer"), (None, None)],
)
def test_wide_heads_get_a_backend_that_takes_them(capability: tuple[int, int] | None, backend: str | None) -> None:
    assert plan_one(Role.AV, GEMMA_12B, here=gpus(1, 80, capability)).attention_backend == backend
    assert plan_one(Role.AV, QWEN, here=gpus(1, 80, capability)).attention_backend is None
    capped = dataclasses.replace(QWEN, architecture="Gemma2ForCausalLM")
    assert plan_one(Role.AV, capped, here=gpus(1, 80, capability)).attention_backend == backend
    mine = Request(attention_backend="triton")
    assert "--attention-backend triton" in " ".join(plan_one(Role.AV, GEMMA_12B, mine, gpus(1, 80)).command(1, "k"))


def test_a_backend_that_loses_the_cap_on_scores_is_refused() -> None:
    capped = dataclasses.replace(QWEN, architecture="Gemma2ForCausalLM")
    losing = [Request(attention_backend="trtllm_mha")]
    for words in (
        ["--attention-backend", "torch_native"],
        ["--attention-backend=trtllm_mha"],
        ["--attention-b", "flex_attention"],
        ["--enable-metrics", "--prefill-attention-backend", "trtllm_mha"],
        ["--decode-attention-backend=torch_native"],
    ):
        losing.append(Request(engine_args={Role.AV: words}))
    for request in losing:
        with pytest.raises(LaunchError, match=r"owner/av: attention backend \w+ leaves out the cap .* take fa3"):
            plan_one(Role.AV, capped, request, gpus(1, 80))
        assert plan_one(Role.AV, QWEN, request, gpus(1, 80))
    for words in (["--attention-backend", "triton"], ["--log-level", "torch_native"]):
        assert plan_one(Role.AV, capped, Request(engine_args={Role.AV: words}), gpus(1, 80))
    # On the CPU a preset's `attention_backend` does not count, and its `engine_args` do.
    assert plan_one(Role.AV, capped, Request(device="cpu", attention_backend="trtllm_mha"))
    with pytest.raises(LaunchError, match="torch_native leaves out the cap"):
        plan_one(Role.AV, capped, dataclasses.replace(losing[1], device="cpu"))


@pytest.mark.parametrize("capability", [(9, 0), None])
def test_float32_gets_a_backend_that_takes_it(capability: tuple[int, int] | None) -> None:
    for config in (QWEN, GEMMA_12B):
        here = gpus(1, 141, capability)
        assert plan_one(Role.AV, config, Request(dtype="float32"), here).attention_backend == "triton"
    assert plan_one(Role.AV, QWEN, Request(dtype="float32", device="cpu")).attention_backend is None


def test_float32_with_a_backend_that_takes_none_is_refused() -> None:
    stated = Request(attention_backend="fa3", dtype="float32")
    argument = Request(engine_args={Role.AV: ["--prefill-attention-backend=flashinfer"]}, dtype="float32")
    for request in (stated, argument):
        with pytest.raises(LaunchError, match=r"owner/av: attention backend \w+ takes no float32: take triton"):
            plan_one(Role.AV, QWEN, request, gpus(1, 141))
        assert plan_one(Role.AV, QWEN, dataclasses.replace(request, dtype="bfloat16"), gpus(1, 141))
        assert plan_one(Role.AV, QWEN, dataclasses.replace(request, device="cpu"))
    triton = Request(engine_args={Role.AV: ["--attention-backend", "triton"]}, dtype="float32")
    assert plan_one(Role.AV, QWEN, triton, gpus(1, 141))


def test_over_several_gpus_all_take_the_same_token() -> None:
    one, two = (plan_one(Role.AV, QWEN, Request(tp=tp), gpus(2, 80)).environment() for tp in (1, 2))
    assert two.keys() - one.keys() == {"SYNC_TOKEN_IDS_ACROSS_TP"}


def test_old_gpus_are_refused() -> None:
    with pytest.raises(LaunchError, match=r"compute capability 7\.5\) has no bfloat16"):
        plan_one(Role.AV, QWEN, here=gpus(1, 80, (7, 5)))
