"""The released pairs on usual machines: what fits, what is refused, and that what is advised works."""

import re
from collections.abc import Sequence
from typing import Any

import pytest

from nla_gateway.roles import Role
from nla_launch.errors import LaunchError
from nla_launch.flags import build_parser
from nla_launch.pair.preset import Preset
from nla_launch.plan.advice import Advice, advise, flags_of, plan_or_advise
from nla_launch.plan.gpus import Gpu, supposed_gpus
from nla_launch.plan.nodes import Nodes
from nla_launch.plan.placement import GpuChoice, Request, plan_pair
from nla_launch.plan.planning import read_request
from tests.launch.shapes import SHAPES, gpus, pair
from tests.pages import ROOT, of_kind

FITS = "fits"
MACHINES = ("1x24", "1x80", "2x80", "4x80", "8x80", "1x141", "8x141")
WITHOUT_FLAGS = """
                   1x24        1x80        2x80               4x80    8x80             1x141       8x141
qwen2.5-7b-l20     2:--tp 2|av fits        fits               fits    fits             fits        fits
gemma-3-12b-l32    4:--tp 4|ar fits        fits               fits    fits             fits        fits
gemma-3-27b-l41    8:SPLIT     2:--tp 2|av --tp 2             --tp 2  --tp 2           fits        fits
llama-3.3-70b-l53  16:--tp 16  4:--tp 4    4:--tp 4|av --tp 2 --tp 4  --tp 4           2:--tp 2|ar --tp 2
"""
OVER_ALL_GPUS = """
                   1x24        1x80        2x80               4x80    8x80             1x141       8x141
qwen2.5-7b-l20     2:--tp 2|av fits        fits               fits    --tp 4 --dp 2    fits        --tp 4 --dp 2
gemma-3-12b-l32    4:--tp 4|ar fits        fits               fits    fits             fits        fits
gemma-3-27b-l41    8:SPLIT 4   2:--tp 2|av fits               fits    fits             fits        fits
llama-3.3-70b-l53  16:--tp 16  4:--tp 4    4:--tp 4|av        fits    fits             2:--tp 2|ar fits
"""
"""Of each pair on each machine (GPUs x GB): `fits`, or the advice, its ways separated by `|`. `--tp 2`: on these GPUs;
`4:--tp 4`: on 4 such GPUs; `av`: --only av; SPLIT: four of its own for each engine, `SPLIT 4` with --tp 4 for it."""


def written_out(cell: str) -> str:
    """Four GPUs for each engine, which are too many words for a cell."""
    split = "--av-gpus 0-3 --ar-gpus 4-7"
    return cell.replace("SPLIT 4", f"{split} --tp 4").replace("SPLIT", split)


def cells(table: str) -> list[tuple[str, str, str]]:
    """Read a table by its columns' beginnings."""
    head, *rows = [line for line in table.splitlines() if line.strip()]
    starts = [head.index(f" {machine}") + 1 for machine in MACHINES]
    ends = [*starts[1:], None]
    return [
        (row.split()[0], machine, written_out(row[start:end].strip()))
        for row in rows
        for machine, start, end in zip(MACHINES, starts, ends, strict=True)
    ]


def machine_of(name: str) -> list[Gpu]:
    count, gigabytes = name.split("x")
    return gpus(int(count), int(gigabytes))


def in_short(way: Advice, shape: str, request: Request, here: Sequence[Gpu]) -> str:
    flags = " ".join(flags_of(way, pair(shape), request)).removeprefix("--only ")
    return flags if len(way.gpus) == len(here) else f"{len(way.gpus)}:{flags}"


def outcome(shape: str, request: Request, here: Sequence[Gpu]) -> str:
    try:
        plan_pair(pair(shape), request, here)
    except LaunchError:
        return "|".join(in_short(way, shape, request, here) for way in advise(pair(shape), request, here))
    return FITS


def accepted(way: Advice, shape: str, given: Sequence[str]) -> None:
    """Plan what was advised anew, from its flags as a user would add them."""
    request = request_of(given)
    arguments = build_parser().parse_args([*given, *flags_of(way, pair(shape), request)])
    targets = {role: target for role, target in pair(shape).items() if arguments.only in (None, role)}
    assert plan_pair(targets, read_request(Preset(name="x", av=None, ar=None), arguments), way.gpus)


def request_of(flags: Sequence[str]) -> Request:
    return read_request(Preset(name="x", av=None, ar=None), build_parser().parse_args(list(flags)))


@pytest.mark.parametrize(("shape", "machine", "expected"), cells(WITHOUT_FLAGS))
def test_without_flags(shape: str, machine: str, expected: str) -> None:
    here = machine_of(machine)
    assert outcome(shape, Request(), here) == expected
    for way in advise(pair(shape), Request(), here):
        accepted(way, shape, [])


@pytest.mark.parametrize(("shape", "machine", "expected"), cells(OVER_ALL_GPUS))
def test_over_all_gpus(shape: str, machine: str, expected: str) -> None:
    here = machine_of(machine)
    request = Request(tp=len(here))
    assert outcome(shape, request, here) == expected
    for way in advise(pair(shape), request, here):
        accepted(way, shape, ["--tp", str(len(here))])


def test_the_tables_are_whole() -> None:
    for table in (WITHOUT_FLAGS, OVER_ALL_GPUS):
        assert {(shape, machine) for shape, machine, _ in cells(table)} == {(s, m) for s in SHAPES for m in MACHINES}
        assert all(expected for _, _, expected in cells(table))


PAGE = (ROOT / "launch" / "README.md").read_text()
PAGE_ROW = re.compile(r"^\| (\S+?)-(?:Instruct|IT), layer (\d+).*?\| (\d+) GB \|(.*)\|$", re.MULTILINE)


def test_the_table_of_the_page_is_true() -> None:
    rows = PAGE_ROW.findall(PAGE)
    assert len(rows) == len(SHAPES)
    for name, layer, weights, row in rows:
        shape = f"{name.lower()}-l{layer}"
        loads = [engine.load for engine in plan_pair(pair(shape), Request(), supposed_gpus(1))]
        assert sum(load.weights for load in loads if load is not None) / 1e9 == pytest.approx(int(weights), abs=0.6)
        for gigabytes, cell in zip((24, 80, 141), row.split("|"), strict=True):
            count = int(cell.strip(" `").removeprefix("--tp "))
            assert outcome(shape, Request(tp=count), gpus(count, gigabytes)) == FITS
            assert count == 1 or outcome(shape, Request(tp=count // 2), gpus(count // 2, gigabytes)) != FITS


SOURCE_ROW = re.compile(r"^\| (\S+), layer (\d+) \| (\d+) GB \|(.*)\|$", re.MULTILINE)


def fits_with_source(shape: str, count: int, gigabytes: int) -> bool:
    try:
        return bool(plan_pair(pair(shape, *Role), Request(tp=count), gpus(count, gigabytes)))
    except LaunchError:
        return False


def test_the_table_of_sources_on_the_page_is_true() -> None:
    rows = SOURCE_ROW.findall(PAGE)
    assert len(rows) == len(SHAPES)
    for name, layer, weights, row in rows:
        shape = f"{name.lower()}-l{layer}"
        (source,) = plan_pair(pair(shape, Role.SOURCE), Request(), supposed_gpus(1))
        assert source.load is not None
        assert source.load.weights / 1e9 == pytest.approx(int(weights), abs=0.6)
        for gigabytes, cell in zip((24, 80, 141), row.split("|"), strict=True):
            fitting = [count for count in (1, 2, 4, 8, 16, 32) if fits_with_source(shape, count, gigabytes)]
            told = cell.strip(" `").removeprefix("--tp ")
            assert told == (str(fitting[0]) if fitting else "none")


def test_the_refusal_on_the_page_is_what_comes() -> None:
    (refusal,) = of_kind("refusal")
    command, *message = refusal.text.splitlines()
    flags = command.removeprefix("$ nla-serve ").split()
    shape = build_parser().parse_args(flags).preset
    with pytest.raises(LaunchError) as caught:
        plan_or_advise(pair(shape), request_of(flags), [Gpu(0, "NVIDIA L4", 24 * 10**9, (8, 9))])
    assert f"nla-serve: {caught.value}" == " ".join(message)


def test_the_message_has_the_numbers_and_the_ways() -> None:
    with pytest.raises(LaunchError) as caught:
        plan_or_advise(pair("qwen2.5-7b-l20"), Request(), gpus(1, 24))
    assert str(caught.value) == (
        "verbalizer 15.2 GB + reconstructor 10.9 GB + KV 0.4 GB + overhead 7.7 GB > 22.8 GB of GPU 0"
        " (test, 5% kept free): add 1 GPU like it (--tp 2), or use --only av"
    )


@pytest.mark.parametrize(
    ("shape", "given", "here", "expected"),
    [
        ("qwen2.5-7b-l20", ["--tp", "8"], gpus(8, 80), "--tp 4 --dp 2"),
        ("qwen2.5-7b-l20", ["--tp", "8"], supposed_gpus(8), "--tp 4 --dp 2"),
        ("qwen2.5-7b-l20", ["--tp", "4"], gpus(2, 80), "--tp 2"),
        ("qwen2.5-7b-l20", ["--gpus", "0-7"], gpus(8, 80), "--dp 2"),
        ("qwen2.5-7b-l20", ["--gpus", "0,3-4"], gpus(8, 80), "--dp 3"),
        ("gemma-3-27b-l41", ["--av-gpus", "0", "--ar-gpus", "1", "--tp", "2"], gpus(2, 80), "--tp 1"),
        ("llama-3.3-70b-l53", ["--gpus", "4-5"], gpus(8, 80), "--gpus 0-3"),
        ("llama-3.3-70b-l53", ["--av-gpus", "0-1", "--ar-gpus", "2"], gpus(4, 80), "--av-gpus 0-1 --ar-gpus 2-3"),
        ("llama-3.3-70b-l53", ["--av-gpus", "0-1", "--ar-gpus", "2-3"], gpus(4, 72), "--gpus 0-3"),
        ("llama-3.3-70b-l53", ["--tp", "4", "--concurrency", "4096"], gpus(4, 80), "--concurrency "),
        ("llama-3.3-70b-l53", ["--tp", "4", "--dp", "2"], gpus(4, 80), "--dp 1"),
    ],
)
def test_nearest(shape: str, given: list[str], here: list[Gpu], expected: str) -> None:
    request = request_of(given)
    with pytest.raises(LaunchError):
        plan_pair(pair(shape), request, here)
    first = advise(pair(shape), request, here)[0]
    assert " ".join(flags_of(first, pair(shape), request)).startswith(expected)
    dropped = first.request.gpus.shared is not None and request.gpus.own
    accepted(first, shape, [] if dropped else given)


def test_for_one_engine_its_own_flag_is_dropped() -> None:
    alone = {Role.AR: pair("llama-3.3-70b-l53")[Role.AR]}
    with pytest.raises(LaunchError) as caught:
        plan_or_advise(alone, request_of(["--ar-gpus", "0"]), gpus(8, 80))
    assert str(caught.value).endswith("use --gpus 0-1 without --ar-gpus")


def test_as_much_concurrency_as_fits_is_advised() -> None:
    here, asked = gpus(4, 80), Request(tp=4, concurrency=4096)
    most = advise(pair("llama-3.3-70b-l53"), asked, here)[0].request.concurrency
    assert most is not None
    assert plan_pair(pair("llama-3.3-70b-l53"), Request(tp=4, concurrency=most), here)
    with pytest.raises(LaunchError):
        plan_pair(pair("llama-3.3-70b-l53"), Request(tp=4, concurrency=most + 1), here)


def test_several_machines_are_advised_as_such() -> None:
    request = Request(nodes=Nodes(2, 0, "first", 5000))
    (way,) = advise(pair("llama-3.3-70b-l53"), request, gpus(2, 80))
    assert flags_of(way, pair("llama-3.3-70b-l53"), request) == ["--tp", "4"]


def test_where_nothing_works_it_says_so() -> None:
    with pytest.raises(LaunchError, match="no plan like it works"):
        plan_or_advise(pair("qwen2.5-7b-l20"), Request(nodes=Nodes(3, 0, "first", 5000)), gpus(1, 80))


@pytest.mark.parametrize("changes", [{"gpus": GpuChoice((0, 1))}, {"tp": 2}])
def test_nothing_is_advised_where_all_is_well(changes: dict[str, Any]) -> None:
    assert plan_or_advise(pair("gemma-3-27b-l41"), Request(**changes), gpus(2, 80))
