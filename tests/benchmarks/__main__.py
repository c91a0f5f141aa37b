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

from nla_launch.pair import made
from tests.benchmarks import (
    ablate,
    bodies,
    dataset,
    gateway,
    growth,
    hops,
    page,
    reconstruct,
    report,
    servers,
    startup,
    texts,
    whole,
    wire,
)
from tests.benchmarks.figures import FULL, Figure, Scale
from tests.benchmarks.report import Results
from tests.checkpoints import write_preset
from tests.plain import TOY, load_toy_vectors
from tests.stack import Stack, serving, starting

logger = logging.getLogger("bench")

DTYPE: Final = "bfloat16"
"""What GPUs serve in; it sets the size of a vector on the wire."""
NARROWER: Final = 3584
WIDER: Final = 8192
"""As wide as vectors of a 7B and of a 70B model."""
SMALL_POOL: Final = 2560
"""Tokens in the KV pool: 16 short samples of the recipe's fill a quarter of it, 64 long ones more than all."""


def main() -> int:
    """Measure everything, print the table, write JSON and plots."""
    results = report.start("make bench", __doc__, "build/bench")
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), FULL, results)
    results.plot()
    where, seconds = report.machine(), time.monotonic() - started
    sys.stdout.write(f"{report.table(results.figures)}\n\n{where['cores']} cores of {where['cpu']}, ")
    sys.stdout.write(f"{where['memory_gib']} GiB; {seconds:.0f} s; JSON and plots in {results.folder}\n")
    return 0


def measure(folder: Path, scale: Scale, results: Results) -> None:
    """All rows, on one set of servers after the other."""
    with_a_deep_reconstructor(folder, scale, results)
    against_recipe(folder, WIDER, scale, results)
    logger.info("the toy pair: starting")
    with serving(folder / "toy.log", "--preset", "toy") as stack:
        on_toy(stack, scale, results)
    logger.info("a source: starting")
    with texts.serving_base(folder) as (stack, base):
        logger.info("measuring: reading")
        results.add(texts.measure_reading("SmolLM2-135M's form", stack, base, texts.BLOCKS, scale))
    with page.serving_pair(folder) as stack:
        logger.info("measuring: explaining")
        results.add(texts.measure_explaining(stack, scale))
        logger.info("measuring: the page")
        results.add(page.measure(stack, scale))
    logger.info("measuring: starts")
    made.made("base")  # a first start makes the checkpoints, too
    results.add(startup.measure(folder / "demo", scale, "demo", ways=(startup.FORKED,)))
    results.add(startup.measure(folder / "toy", scale, "toy"))


def against_recipe(folder: Path, d_model: int, scale: Scale, results: Results) -> None:
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
        results.add(asyncio.run(wire.measure(ours, stock, checkpoint, scale)))
        if d_model == NARROWER:
            logger.info("measuring: memory and cache")
            results.add(asyncio.run(growth.memory(ours, d_model, scale)))
            results.add(whole.measure_cached(ours, growth.vectors_of(d_model), scale))
            results.add(asyncio.run(hops.measure(ours, growth.vectors_of(d_model), scale)))


def with_a_deep_reconstructor(folder: Path, scale: Scale, results: Results) -> None:
    """The rows of the narrower servers, and those on a reconstructor as deep as a real one, started with them."""
    checkpoint = servers.make_deep_reconstructor(folder / "deep")
    flags = ("--only", "ar", "--ar", str(checkpoint), "--device", "cpu", "--dtype", "float32")
    with starting(folder / "deep.log", *flags) as deep:
        against_recipe(folder, NARROWER, scale, results)
        logger.info("measuring: a deep reconstructor")
        deep.wait_ready()
        results.add(asyncio.run(reconstruct.measure("21 narrow blocks", deep.url, checkpoint, scale)))


def on_toy(stack: Stack, scale: Scale, results: Results) -> None:
    """The rows that any stack of the toy pair serves."""
    vectors = load_toy_vectors()
    rows: dict[str, Callable[[], list[Figure]]] = {
        "gateway against its engine": lambda: asyncio.run(gateway.measure(stack, vectors, scale)),
        "fairness": lambda: gateway.measure_fairness(stack, vectors, scale),
        "reconstruct": lambda: asyncio.run(reconstruct.measure("toy pair", stack.url, TOY / "reconstructor", scale)),
        "parts left out": lambda: asyncio.run(ablate.measure(stack, vectors, scale)),
        "end to end": lambda: asyncio.run(whole.measure_scored(stack, vectors, scale)),
        "files": lambda: asyncio.run(dataset.measure(stack, vectors, scale)),
        "large bodies": lambda: bodies.measure(stack, vectors, scale),
    }
    for name, row in rows.items():
        logger.info("measuring: %s", name)
        results.add(row())
    logger.info("measuring: growth")
    results.grow("concurrency", asyncio.run(growth.by_concurrency(stack, vectors, scale)))
    results.grow("vectors a call", asyncio.run(growth.by_call_size(stack, vectors, scale)))


if __name__ == "__main__":
    sys.exit(main())
