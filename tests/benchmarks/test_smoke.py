"""The benchmarks work: every row in its smallest form. Their figures are not looked at here."""

import asyncio
import json
from pathlib import Path

from tests.benchmarks import report, servers, whole, wire
from tests.benchmarks.__main__ import DEMO, demo_vectors, on_demo
from tests.benchmarks.figures import SMOKE, Figure, Target
from tests.benchmarks.growth import memory
from tests.stack import Stack


def test_every_row(demo: Stack, tmp_path: Path) -> None:
    checkpoint = DEMO / "verbalizer"
    # Stock SGLang takes input_embeds in bfloat16 alone.
    with servers.stock_server(checkpoint, tmp_path / "log", "bfloat16") as stock:
        figures = asyncio.run(wire.measure(demo.url, stock, checkpoint, "float32", SMOKE))
    on_the_demo, growth = on_demo(demo, SMOKE)
    figures += on_the_demo
    figures += asyncio.run(memory(demo, demo_vectors().shape[1], SMOKE))
    figures += whole.measure_cached(demo, demo_vectors(), SMOKE)
    report.write(tmp_path, figures, growth)
    written = json.loads((tmp_path / "figures.json").read_text())
    assert len(written["figures"]) == len(figures) == len(report.table(figures).splitlines()) - 2
    assert sum(figure["target"] is not None for figure in written["figures"]) == 8
    assert {path.name for path in tmp_path.glob("*.png")} == {
        "ratios.png", "growth-concurrency.png", "growth-vectors-a-call.png",
    }  # fmt: skip


def test_targets() -> None:
    assert Figure("a", [1.0, 3.0, 9.0], "x", Target("at least", 3.0)).reached is True
    assert Figure("a", [1.0, 3.0, 9.0], "x", Target("at most", 2.9)).reached is False
    assert Figure("a", [1.0], "x").reached is None
