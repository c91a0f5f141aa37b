"""The benchmarks work: every row in its smallest form. Their figures are not looked at here."""

import asyncio
import json
from pathlib import Path

import pytest
from transformers import Qwen2Config

from nla_launch.plan.gpus import Gpu
from tests import warm
from tests.benchmarks import alike, gpu, hops, page, servers, startup, texts, whole, wire
from tests.benchmarks.__main__ import on_toy
from tests.benchmarks.figures import SMOKE, Figure, Target, interleave
from tests.benchmarks.growth import memory
from tests.benchmarks.report import Results
from tests.plain import TOY, load_toy_vectors
from tests.stack import Stack


def targets_of(figures: list[Figure]) -> int:
    return sum(figure.target is not None for figure in figures)


@pytest.mark.timeout(1800)  # all rows, one after the other, some minutes on an idle machine
def test_every_row(toy: Stack, toy_with_source: Stack, tmp_path: Path) -> None:
    checkpoint, results = TOY / "verbalizer", Results(tmp_path)
    # Stock SGLang takes input_embeds in bfloat16 alone.
    with servers.stock_server(checkpoint, tmp_path / "log", "bfloat16") as stock:
        results.add(asyncio.run(wire.measure(toy, stock, checkpoint, SMOKE)))
    on_toy(toy, SMOKE, results)
    results.add(asyncio.run(memory(toy, load_toy_vectors().shape[1], SMOKE)))
    results.add(whole.measure_cached(toy, load_toy_vectors(), SMOKE))
    results.add(asyncio.run(hops.measure(toy, load_toy_vectors(), SMOKE)))
    results.add(texts.measure_on(toy_with_source, SMOKE))
    results.add(page.measure(toy_with_source, SMOKE))
    results.plot()
    written = json.loads((tmp_path / "figures.json").read_text())
    rows = (tmp_path / "table.md").read_text().splitlines()
    assert len(written["figures"]) == len(results.figures) == len(rows) - 2
    assert sum(figure["target"] is not None for figure in written["figures"]) == targets_of(results.figures) == 25
    assert {path.name for path in tmp_path.glob("*.png")} == {
        "ratios.png", "growth-concurrency.png", "growth-vectors-a-call.png",
    }  # fmt: skip


def test_what_is_measured_in_rounds_is_written_after_each(tmp_path: Path) -> None:
    """So that a time limit loses nothing."""
    results, seen = Results(tmp_path), list[list[float]]()

    async def side() -> float:
        path = tmp_path / "figures.json"
        seen.append([it["median"] for it in json.loads(path.read_text())["figures"]] if path.exists() else [])
        return float(len(seen))

    def tell(speed: dict[str, list[float]]) -> None:
        results.add([Figure("a", speed["side"], "x")])

    asyncio.run(interleave(3, {"side": side}, tell=tell))
    assert seen == [[], [], [2.0], [2.5]]
    assert [figure.values for figure in results.figures] == [[2.0, 3.0, 4.0]]


def test_the_rows_of_starting(tmp_path: Path) -> None:
    figures = startup.measure(tmp_path, SMOKE, "toy", ways=(startup.FORKED,), warm=True)
    assert targets_of(figures) == len(figures) == 3


TINY = gpu.Shape(
    "tiny",
    "qwen2",
    Qwen2Config(
        hidden_size=128, intermediate_size=256, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=2000, max_position_embeddings=1024, tie_word_embeddings=False,
    ),
    layer=2,
    gpus=1,
)  # fmt: skip


def test_the_gpu_rows_on_the_cpu(tmp_path: Path) -> None:
    results = Results(tmp_path / "results")
    gpu.run(TINY, tmp_path, ["--device", "cpu"], results, vectors=8, rounds=1, warm=True)
    written = json.loads((tmp_path / "results/figures.json").read_text())
    assert len(written["figures"]) == 10
    medians = {figure["name"].removeprefix(f"{TINY.name}: "): figure["median"] for figure in written["figures"]}
    # What is left for decode is below 0 where a round of first tokens alone is disturbed.
    assert sum(medians.pop(f"time in {part}") for part in ("prefill", "decode")) == pytest.approx(100)
    assert all(median > 0 for median in medians.values())
    assert_alike(results, TINY.name, "float32", least=8)


def test_the_toy_pair_against_transformers_on_the_cpu(tmp_path: Path) -> None:
    """As on GPUs, in bfloat16, in which texts of a trained pair seldom differ."""
    results = Results(tmp_path / "results")
    gpu.compare_toy(tmp_path, ["--device", "cpu"], results, warm=True)
    assert_alike(results, "toy pair", "bfloat16", least=4)


def assert_alike(results: Results, name: str, dtype: str, *, least: int) -> None:
    found = {figure.name.removeprefix(f"{name}, {dtype}: "): figure.values for figure in results.figures}
    (equal,) = found["greedy texts equal to transformers', of 8"]
    assert least <= equal <= 8
    assert len(found["tokens up to the first that differs"]) == 8
    assert min(found["cosine of vectors rebuilt by both"]) > 0.999


def test_where_two_answers_differ() -> None:
    assert alike.in_common([1, 2, 3], [1, 2, 3]) == 3
    assert alike.in_common([1, 2, 3], [1, 2, 3, 4]) == 3  # which begins the answer's end
    assert alike.in_common([1, 2, 3], [1, 2]) == 2
    assert alike.in_common([1, 2, 3], [1, 9, 3]) == 1
    assert alike.in_common([1], [9]) == 0


def test_shapes_that_do_not_fit_say_so() -> None:
    large = [Gpu(number, "test", 80 * 10**9) for number in range(8)]
    assert gpu.misfit(gpu.SHAPES[0], large[:1], 10**12) is None
    assert "8 GPUs" in str(gpu.misfit(gpu.SHAPES[1], large[:4], 10**12))
    assert gpu.misfit(gpu.SHAPES[1], large, 10**12) is None
    assert "on disk" in str(gpu.misfit(gpu.SHAPES[1], large, 10**11))


def test_without_a_gpu_one_line_says_so() -> None:
    done = warm.run("tests.benchmarks.gpu", CUDA_VISIBLE_DEVICES="")
    assert done.stdout == "bench-gpu: skipped, this machine has no CUDA GPU\n"


def test_targets() -> None:
    assert Figure("a", [1.0, 3.0, 9.0], "x", Target("at least", 3.0)).reached is True
    assert Figure("a", [1.0, 3.0, 9.0], "x", Target("at most", 2.9)).reached is False
    assert Figure("a", [1.0], "x").reached is None
