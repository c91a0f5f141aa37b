"""`make bench`: every row, on real engines, in one run. Figures are ratios within the run: see README.md here."""

import asyncio
import logging
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from tests.benchmarks import (
    ablate,
    bodies,
    dataset,
    gateway,
    growth,
    reconstruct,
    report,
    servers,
    startup,
    texts,
    whole,
    wire,
)
from tests.benchmarks.figures import FULL, Figure, Scale
from tests.checkpoints import write_preset
from tests.plain import DEMO, load_demo_vectors
from tests.stack import Stack, serving, starting

logger = logging.getLogger("bench")

DTYPE: Final = "bfloat16"
"""What GPUs serve in; it sets the size of a vector on the wire."""
NARROWER: Final = 3584
WIDER: Final = 8192
"""As wide as vectors of a 7B and of a 70B model."""
SMALL_POOL: Final = 2560
"""Tokens in the KV pool: 16 short samples of the recipe's fill a quarter of it, 64 long ones more than all."""
Growth = dict[str, list[growth.Point]]


def main() -> int:
    """Measure everything, print the table, write JSON and plots."""
    out = report.start("make bench", __doc__, "build/bench")
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        figures = with_a_deep_reconstructor(Path(folder), FULL)
        figures += against_recipe(Path(folder), WIDER, FULL)
        on_the_demo, grown = demo_rows(Path(folder), FULL)
        logger.info("measuring: from texts")
        on_the_demo += texts.measure(Path(folder), FULL)
        logger.info("measuring: starts")
        on_the_demo += startup.measure(Path(folder), FULL)
    figures += on_the_demo
    report.write(out, figures, grown)
    where = report.machine()
    sys.stdout.write(f"{report.table(figures)}\n\n{where['cores']} cores of {where['cpu']}, {where['memory_gib']} GiB;")
    sys.stdout.write(f" {time.monotonic() - started:.0f} s; JSON and plots in {out}\n")
    return 0


def against_recipe(folder: Path, d_model: int, scale: Scale) -> list[Figure]:
    """The rows that need a stock server beside ours; at the narrower width also the gateway's memory and the cache."""
    logger.info("the public recipe against nla-serve, d %d: starting both", d_model)
    checkpoint = servers.make_wide_verbalizer(folder / f"wide-{d_model}", d_model)
    preset = write_preset(folder / f"{checkpoint.name}.yaml", checkpoint, "--max-total-tokens", str(SMALL_POOL))
    flags = ("--preset", str(preset), "--only", "av", "--dtype", DTYPE)
    with ExitStack() as stack:
        ours = stack.enter_context(starting(folder / f"ours-{d_model}.log", *flags))
        stock = stack.enter_context(servers.stock_server(checkpoint, folder / f"stock-{d_model}.log", DTYPE))
        ours.wait_ready()
        logger.info("measuring")
        figures = asyncio.run(wire.measure(ours, stock, checkpoint, scale))
        if d_model == NARROWER:
            logger.info("measuring: memory and cache")
            figures += asyncio.run(growth.memory(ours, d_model, scale))
            figures += whole.measure_cached(ours, growth.vectors_of(d_model), scale)
    return figures


def with_a_deep_reconstructor(folder: Path, scale: Scale) -> list[Figure]:
    """The rows of the narrower servers, and those on a reconstructor as deep as a real one, started with them."""
    checkpoint = servers.make_deep_reconstructor(folder / "deep")
    flags = ("--only", "ar", "--ar", str(checkpoint), "--device", "cpu", "--dtype", "float32")
    with starting(folder / "deep.log", *flags) as deep:
        figures = against_recipe(folder, NARROWER, scale)
        logger.info("measuring: a deep reconstructor")
        deep.wait_ready()
        return figures + asyncio.run(reconstruct.measure("21 narrow blocks", deep.url, checkpoint, scale))


def demo_rows(folder: Path, scale: Scale) -> tuple[list[Figure], Growth]:
    """The rows on the demo pair."""
    logger.info("the demo pair: starting")
    with serving(folder / "demo.log", "--preset", "demo") as stack:
        return on_demo(stack, scale)


def on_demo(stack: Stack, scale: Scale) -> tuple[list[Figure], Growth]:
    """The rows that any stack of the demo pair serves."""
    vectors = load_demo_vectors()
    figures: list[Figure] = []
    rows: dict[str, Callable[[], list[Figure]]] = {
        "gateway against its engine": lambda: asyncio.run(gateway.measure(stack, vectors, scale)),
        "fairness": lambda: asyncio.run(gateway.measure_fairness(stack, vectors, scale)),
        "reconstruct": lambda: asyncio.run(reconstruct.measure("demo pair", stack.url, DEMO / "reconstructor", scale)),
        "parts left out": lambda: asyncio.run(ablate.measure(stack, vectors, scale)),
        "end to end": lambda: asyncio.run(whole.measure_scored(stack, vectors, scale)),
        "files": lambda: asyncio.run(dataset.measure(stack, vectors, scale)),
        "large bodies": lambda: bodies.measure(stack, vectors, scale),
    }
    for name, row in rows.items():
        logger.info("measuring: %s", name)
        figures += row()
    logger.info("measuring: growth")
    return figures, {
        "concurrency": asyncio.run(growth.by_concurrency(stack, vectors, scale)),
        "vectors a call": asyncio.run(growth.by_call_size(stack, vectors, scale)),
    }


if __name__ == "__main__":
    sys.exit(main())
