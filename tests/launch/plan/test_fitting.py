"""KV pools and concurrency, for the room that there is."""

import pytest

from nla_gateway.roles import Role
from nla_launch.errors import PlanError
from nla_launch.plan.fitting import charge, usable
from nla_launch.plan.gpus import Gpu
from nla_launch.plan.placement import GpuChoice, Request, plan_pair
from nla_launch.plan.plan import EnginePlan
from tests.launch.shapes import LLAMA, QWEN, gpus, pair, plan_one


def taken(engines: list[EnginePlan], gpu: Gpu) -> int:
    charges = [charge(engine) for engine in engines if gpu in engine.gpus]
    return sum(one.peak for one in charges if one is not None)


@pytest.mark.parametrize(
    ("shape", "tp", "gigabytes"),
    [("qwen2.5-7b-l20", 1, 40), ("gemma-3-12b-l32", 1, 80), ("gemma-3-27b-l41", 2, 80), ("llama-3.3-70b-l53", 4, 80)],
)
def test_pools_shrink_to_what_the_weights_leave(shape: str, tp: int, gigabytes: int) -> None:
    here = gpus(tp, gigabytes)
    engines = plan_pair(pair(shape), Request(tp=tp), here)
    room = usable(here[0])
    assert room is not None
    assert 0.97 * room < taken(engines, here[0]) <= room
    assert engines[0].pool_tokens >= 256 * engines[0].running_requests


def test_wanted_pools_where_there_is_room() -> None:
    av, ar = plan_pair(pair("llama-3.3-70b-l53"), Request(tp=8), gpus(8, 80))
    assert (av.pool_tokens, ar.pool_tokens, av.concurrency) == (131_072, 16_384, 256)


def test_concurrency_decides_all_of_it() -> None:
    for asked in (1, 8, 100, 512):
        engine = plan_one(Role.AV, QWEN, Request(concurrency=asked), gpus(1, 80))
        command = engine.command(1, "k")
        assert command[command.index("--max-running-requests") + 1] == str(asked)
        assert engine.pool_tokens == max(4096, 512 * asked)
        assert asked < engine.max_in_flight <= asked + max(1, asked // 8)
        assert 1 <= engine.shared_in_flight < engine.max_in_flight


def test_replicas_share_the_concurrency_out() -> None:
    engine = plan_one(Role.AV, QWEN, Request(dp=4, concurrency=90), gpus(4, 80))
    assert (engine.concurrency, engine.running_requests, engine.pool_tokens) == (90, 23, 512 * 23)
    assert plan_one(Role.AV, QWEN, Request(dp=4), gpus(4, 80)).running_requests == 256


def test_a_concurrency_that_was_asked_for_is_not_lowered() -> None:
    assert plan_one(Role.AV, QWEN, Request(), gpus(1, 24)).concurrency < 256
    with pytest.raises(PlanError, match=r"verbalizer 15\.2 GB \+ KV 3\.8 GB \+ overhead"):
        plan_one(Role.AV, QWEN, Request(concurrency=256), gpus(1, 24))


def test_engines_apart_do_not_shrink_each_other() -> None:
    here = [*gpus(1, 24), Gpu(1, "large", 80 * 10**9)]
    split = Request(gpus=GpuChoice(own={Role.AV: (1,), Role.AR: (0,)}))
    av, ar = plan_pair(pair("qwen2.5-7b-l20"), split, here)
    assert (av.pool_tokens, ar.pool_tokens) == (131_072, 16_384)


def test_the_smallest_gpu_decides() -> None:
    here = [*gpus(1, 80), Gpu(1, "small", 40 * 10**9)]
    with pytest.raises(PlanError, match="of GPU 1 \\(small"):
        plan_pair(pair("gemma-3-27b-l41"), Request(tp=2), here)


def test_fp8_weights_must_fit_before_they_are_quantized() -> None:
    with pytest.raises(PlanError, match=r"verbalizer 142\.1 GB while it loads"):
        plan_one(Role.AV, LLAMA, Request(quantization="fp8"), gpus(1, 141))
    plain, fp8 = (
        plan_pair(pair("gemma-3-12b-l32"), Request(quantization=quantization), gpus(1, 80))
        for quantization in (None, "fp8")
    )
    assert plain[0].pool_tokens < fp8[0].pool_tokens


def test_the_static_share_leaves_room_for_what_computing_takes() -> None:
    engine = plan_one(Role.AV, QWEN, Request(), gpus(1, 80))
    load = engine.load
    assert load is not None
    assert (1 - engine.memory_share) * 80e9 == pytest.approx(load.working(256), abs=0.1e9)
    assert load.weights + load.pool(engine.pool_tokens) < engine.memory_share * 80e9
