"""Several pairs on one machine: whose GPUs are whose, and that they fit there together."""

import re
from typing import Any

import pytest

from nla_gateway.roles import Role
from nla_launch.errors import LaunchError
from nla_launch.flags import build_parser
from nla_launch.pair.preset import Preset
from nla_launch.plan.asked import Asked
from nla_launch.plan.fitting import charge, usable
from nla_launch.plan.gpus import Gpu
from nla_launch.plan.placement import GpuChoice, Request, plan_pair
from nla_launch.plan.plan import EnginePlan
from nla_launch.plan.together import ToPlan, plan_together
from tests.launch.shapes import gpus, pair

QWEN, LLAMA = "qwen2.5-7b-l20", "llama-3.3-70b-l53"


def to_plan(name: str, shape: str, here: list[Gpu], *roles: Role, **request: Any) -> ToPlan:
    preset, arguments = Preset(name=shape, av="a", ar="b"), build_parser().parse_args([])
    asked = Asked(preset, arguments, given_name=name, alone=False)
    return ToPlan(asked, pair(shape, *roles), Request(**request), here)


def used(plans: list[list[EnginePlan]]) -> list[set[int]]:
    return [{gpu.index for engine in engines for gpu in engine.gpus} for engines in plans]


def check_memory(plans: list[list[EnginePlan]]) -> None:
    """All engines of a GPU fit into it."""
    engines = [engine for some in plans for engine in some]
    for gpu in {gpu for engine in engines for gpu in engine.gpus}:
        taken = [charge(engine) for engine in engines if gpu in engine.gpus]
        room = usable(gpu)
        assert room is not None
        assert sum(one.peak for one in taken if one is not None) <= room


def test_each_gets_gpus_of_its_own_while_there_are_any() -> None:
    here = gpus(4, 80)
    plans = plan_together([to_plan(name, QWEN, here) for name in ("a", "b", "c")])
    assert used(plans) == [{0}, {1}, {2}]
    assert [engine.label for engine in plans[1]] == ["b verbalizer", "b reconstructor"]
    # Each as if it were alone there.
    alone = plan_pair(pair(QWEN), Request(gpus=GpuChoice((1,))), here)
    assert [engine.pool_tokens for engine in plans[1]] == [engine.pool_tokens for engine in alone]
    assert {engine.concurrency for engine in plans[1]} == {256}


def test_pairs_spread_over_several_follow_each_other() -> None:
    here = gpus(8, 80)
    plans = plan_together([to_plan("large", LLAMA, here, tp=4), to_plan("other", LLAMA, here, tp=4)])
    assert used(plans) == [{0, 1, 2, 3}, {4, 5, 6, 7}]


def test_where_too_few_are_left_they_are_shared() -> None:
    here = gpus(1, 141)
    plans = plan_together([to_plan("a", QWEN, here, *Role), to_plan("b", QWEN, here, *Role)])
    assert used(plans) == [{0}, {0}]
    check_memory(plans)
    # On a smaller one fewer samples run at the same time, in all pairs alike.
    small = gpus(1, 80)
    plans = plan_together([to_plan("a", QWEN, small), to_plan("b", QWEN, small)])
    check_memory(plans)
    assert len({engine.concurrency for some in plans for engine in some}) == 1
    (alone, _) = plan_pair(pair(QWEN), Request(), small)
    assert (plans[0][0].concurrency, plans[0][0].pool_tokens) < (alone.concurrency, alone.pool_tokens)


def test_one_that_has_gpus_of_its_own_is_not_shrunk_for_others() -> None:
    here = gpus(2, 80)
    plans = plan_together([to_plan("a", QWEN, here), to_plan("b", QWEN, here), to_plan("c", QWEN, here)])
    assert used(plans) == [{0}, {1}, {0}]
    check_memory(plans)
    concurrency = [engines[0].concurrency for engines in plans]
    assert concurrency[0] == concurrency[2] <= concurrency[1] == 256


def test_named_gpus_stay_as_they_are() -> None:
    here = gpus(4, 80)
    named = to_plan("a", QWEN, here, gpus=GpuChoice((3,)))
    plans = plan_together([to_plan("b", QWEN, here), named, to_plan("c", QWEN, here)])
    assert used(plans) == [{0}, {3}, {1}]
    own = GpuChoice(own={Role.AV: (0,), Role.AR: (1,)})
    assert used(plan_together([to_plan("a", QWEN, here, gpus=own), to_plan("b", QWEN, here)])) == [{0, 1}, {2}]
    # Named ones are shared only where there are no others.
    two = gpus(2, 141)
    pairs = [to_plan("a", QWEN, two), to_plan("b", QWEN, two, gpus=GpuChoice((0,))), to_plan("c", QWEN, two)]
    assert used(plan_together(pairs)) == [{1}, {0}, {1}]
    assert used(plan_together([*pairs, to_plan("d", QWEN, two, tp=2)])) == [{1}, {0}, {1}, {0, 1}]


def test_a_number_of_samples_that_was_named_is_kept() -> None:
    here = gpus(1, 80)
    plans = plan_together([to_plan("a", QWEN, here, concurrency=64), to_plan("b", QWEN, here)])
    check_memory(plans)
    assert {engine.concurrency for engine in plans[0]} == {64}


def test_what_does_not_fit_is_refused_by_name() -> None:
    here = gpus(1, 48)
    assert plan_together([to_plan("a", QWEN, here)])
    with pytest.raises(LaunchError, match=re.escape("a verbalizer")) as told:
        plan_together([to_plan("a", QWEN, here), to_plan("b", QWEN, here)])
    assert "a and b do not fit there together" in str(told.value)
    # One that could not be served even alone is advised on as if it were.
    with pytest.raises(LaunchError, match=r"^large: .*add \d GPUs like it"):
        plan_together([to_plan("small", QWEN, gpus(1, 80)), to_plan("large", LLAMA, gpus(1, 80))])


def test_all_run_on_one_kind_of_device() -> None:
    here = gpus(1, 80)
    with pytest.raises(LaunchError, match="all pairs run on GPUs, or all on the CPU"):
        plan_together([to_plan("a", QWEN, here), to_plan("b", QWEN, here, device="cpu")])
    plans = plan_together([to_plan(name, QWEN, [], device="cpu") for name in "ab"])
    assert {engine.device for some in plans for engine in some} == {"cpu"}
