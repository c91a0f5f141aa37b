"""Figures as a table, as JSON and as plots."""

import argparse
import json
import logging
import os
import platform
import signal
import sys
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import matplotlib
import psutil
from matplotlib.axes import Axes

from tests.benchmarks.figures import Figure
from tests.benchmarks.growth import Point

matplotlib.use("Agg")
from matplotlib import pyplot as plt

PACKAGES: Final = ("nla-serve", "sglang", "torch", "transformers", "aiohttp", "httpx")


def start(prog: str, description: str | None, folder: str) -> "Results":
    """Read the command line, set up the log; returns where the results go."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # servers are ended, too
    parser = argparse.ArgumentParser(prog=prog, description=description)
    parser.add_argument("--out", type=Path, default=Path(folder), help="folder for the table, JSON and plots")
    arguments = parser.parse_args()
    logging.basicConfig(level="INFO", stream=sys.stderr, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    for noisy in ("httpx", "httpcore", "matplotlib"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    return Results(arguments.out)


def machine() -> dict[str, Any]:
    """Describe where the figures come from."""
    names = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "versions": {name: version(name) for name in PACKAGES},
    }


def table(figures: list[Figure]) -> str:
    """Form a Markdown table."""
    rows = [("what", "median", "spread", "wanted", "reached")]
    for figure in figures:
        spread = "" if len(figure.values) == 1 else f"{_short(min(figure.values))} to {_short(max(figure.values))}"
        wanted = "" if figure.target is None else f"{figure.target.sense} {figure.target.value:g}"
        reached = {True: "yes", False: "no", None: ""}[figure.reached]
        rows.append((figure.name, f"{_short(figure.median)} {figure.unit}", spread, wanted, reached))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


@dataclass
class Results:
    """What was measured so far; written after each step, so that a run which is ended has what it came to.

    Args:
        folder: for `figures.json`, `table.md` and the plots.
    """

    folder: Path
    figures: list[Figure] = field(default_factory=list)
    growth: dict[str, list[Point]] = field(default_factory=dict)

    def add(self, figures: list[Figure]) -> None:
        """Take the rows of a step, or what has become of them after another round."""
        names = {figure.name for figure in figures}
        self.figures = [figure for figure in self.figures if figure.name not in names] + figures
        self._write()

    def grow(self, name: str, points: list[Point]) -> None:
        """Take what was measured of a growing load."""
        self.growth[name] = points
        self._write()

    def _write(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        content = {
            "machine": machine(),
            "figures": [figure.as_json() for figure in self.figures],
            "growth": {name: [point.as_json() for point in points] for name, points in self.growth.items()},
        }
        for name, text in (("figures.json", json.dumps(content, indent=2)), ("table.md", table(self.figures))):
            half = self.folder / f"{name}.half"
            half.write_text(text + "\n")
            half.rename(self.folder / name)

    def plot(self) -> None:
        """Draw what was measured."""
        _plot_ratios(self.folder / "ratios.png", [figure for figure in self.figures if figure.unit == "x"])
        for name, points in self.growth.items():
            _plot_growth(self.folder / f"growth-{name.replace(' ', '-')}.png", name, points)


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _plot_ratios(path: Path, figures: list[Figure]) -> None:
    drawing, axes = plt.subplots(figsize=(9, 0.5 * len(figures) + 1.5), layout="constrained")
    for place, figure in enumerate(reversed(figures)):
        axes.barh(place, figure.median, color="tab:blue" if figure.reached is not False else "tab:orange")
        axes.plot(figure.values, [place] * len(figure.values), "k.", markersize=3)
        if figure.target is not None:
            axes.plot([figure.target.value] * 2, [place - 0.4, place + 0.4], "r", linewidth=2)
    axes.set_yticks(range(len(figures)), [figure.name for figure in reversed(figures)])
    axes.set_xscale("log")
    axes.set_xlabel("ratio within each round: median, rounds (dots), wanted (red)")
    drawing.savefig(path, dpi=120)
    plt.close(drawing)


def _plot_growth(path: Path, name: str, points: list[Point]) -> None:
    drawing, columns = plt.subplots(1, 3, figsize=(12, 3.5), layout="constrained")
    sizes = [point.size for point in points]
    for axes, label, values in zip(
        columns,
        ("vectors/s", "p99, ms" if name == "concurrency" else "whole call, ms", "gateway memory, MB"),
        ([p.vectors_per_s for p in points], [p.p99_ms for p in points], [p.gateway_mb for p in points]),
        strict=True,
    ):
        _plot_line(axes, sizes, values, name, label)
    drawing.savefig(path, dpi=120)
    plt.close(drawing)


def _plot_line(axes: Axes, sizes: list[int], values: list[float], name: str, label: str) -> None:
    axes.plot(sizes, values, "o-")
    axes.set_xscale("log")
    axes.set_ylim(0, 1.1 * max(values))
    axes.set_xlabel(name)
    axes.set_ylabel(label)
