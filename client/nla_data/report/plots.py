"""The plots, as PNG files in memory. matplotlib's objects alone: no global state, no display."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas
from numpy.typing import NDArray

from nla_data.report.statistics import Figure

INK: Final = "#1f5a8c"
ACCENT: Final = "#b3432b"
_DPI: Final = 190
_SIZE: Final = (5.4, 3.1)
_BINS: Final = 60
_POINTS: Final = 3000
"""More than so many are drawn as density."""
_WIDE: Final = 20
"""Norms whose largest is so many times the smallest go on a logarithmic axis."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Plot:
    """A plot.

    Attributes:
        name: Of its file, without the ending.
        title: What it shows.
        alt: The same in words, with its main numbers.
        png: The file.
    """

    name: str
    title: str
    alt: str
    png: bytes


def histogram(name: str, label: str, values: Floats, *, norms: bool = False) -> Plot:
    """How often which values come; the median is marked."""
    log = norms and _is_wide(values)

    def draw(axes: Axes) -> None:
        low, high = float(values.min()), float(values.max())
        bins = np.geomspace(low, high, _BINS + 1).tolist() if log else _BINS if _differ(low, high) else 1
        axes.hist(values, bins=bins, color=INK)
        axes.axvline(float(np.median(values)), color=ACCENT, linestyle="--", label=f"median {np.median(values):.4g}")
        axes.set_xscale("log" if log else "linear")
        axes.set_xlabel(label)
        axes.set_ylabel("rows")
        axes.legend(frameon=False, loc="upper right")  # "best" looks at all bars

    low, median, high = np.percentile(values, (5, 50, 95))
    alt = f"Histogram of {label}: median {median:.4g}, 90 % of the rows between {low:.4g} and {high:.4g}."
    return Plot(name, f"Histogram: {label}", alt, _png(draw))


def norm_against(label: str, norms: Floats, values: Floats) -> Plot:
    """Whether large vectors fare otherwise than small ones."""
    log = _is_wide(norms)

    def draw(axes: Axes) -> None:
        if len(norms) > _POINTS:
            kind: Any = {"xscale": "log"} if log else {}
            shown = axes.hexbin(norms, values, gridsize=50, bins="log", mincnt=1, cmap="Blues", **kind)
            axes.figure.colorbar(shown, ax=axes, label="rows")
        else:
            axes.scatter(norms, values, s=9, alpha=0.5, color=INK, linewidths=0)
            axes.set_xscale("log" if log else "linear")
        axes.set_xlabel("norm of the vector")
        axes.set_ylabel(label)

    constant = norms.std() == 0 or values.std() == 0
    told = "one of them is constant" if constant else f"correlation {np.corrcoef(norms, values)[0, 1]:.2f}"
    return Plot("norm_against", f"Norm against {label}", f"{label} of each row against its norm; {told}.", _png(draw))


def pairs(first: str, before: Floats, second: str, after: Floats) -> Plot:
    """Each row in two runs; on the line they are equal."""

    def draw(axes: Axes) -> None:
        if len(before) > _POINTS:
            shown = axes.hexbin(before, after, gridsize=50, bins="log", mincnt=1, cmap="Blues")
            axes.figure.colorbar(shown, ax=axes, label="rows")
        else:
            axes.scatter(before, after, s=9, alpha=0.5, color=INK, linewidths=0)
        ends = [min(before.min(), after.min()), max(before.max(), after.max())]
        axes.plot(ends, ends, color=ACCENT, linestyle="--", linewidth=1)
        axes.set_xlabel(first)
        axes.set_ylabel(second)

    lower = (after < before).mean()
    alt = f"{second} against {first}, a point a row: {lower:.0%} of the rows lie below the line where they are equal."
    return Plot("pairs", f"{second} against {first}", alt, _png(draw))


def by_layer(label: str, layers: Sequence[Any], figures: Sequence[Figure]) -> Plot:
    """A figure of each layer, with its interval."""
    values = np.array([figure.value for figure in figures])
    lows = np.array([figure.value if figure.low is None else figure.low for figure in figures])
    highs = np.array([figure.value if figure.high is None else figure.high for figure in figures])

    def draw(axes: Axes) -> None:
        numbers = all(isinstance(layer, int | float) for layer in layers)
        places = np.array(layers, float) if numbers else np.arange(len(layers), dtype=float)
        # A percentile interval need not hold the value itself, and no bar may be negative.
        errors = np.maximum(0.0, [values - lows, highs - values])
        axes.errorbar(places, values, yerr=errors, fmt="o-", color=INK, ecolor=ACCENT, capsize=3, markersize=4)
        if not numbers or len(layers) <= 12:
            axes.set_xticks(places, [str(layer).replace("$", r"\$") for layer in layers])  # no formulas
        axes.set_xlabel("layer")
        axes.set_ylabel(label)

    best, worst = layers[int(values.argmax())], layers[int(values.argmin())]
    alt = f"{label} by layer: highest {values.max():.3f} at {best}, lowest {values.min():.3f} at {worst}."
    return Plot("by_layer", f"{label} by layer", alt, _png(draw))


def _png(draw: Callable[[Axes], None]) -> bytes:
    canvas = Canvas(figsize=_SIZE, dpi=_DPI, layout="constrained")
    FigureCanvasAgg(canvas)
    axes = canvas.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    draw(axes)
    stream = io.BytesIO()
    canvas.savefig(stream, format="png")
    return stream.getvalue()


def _differ(low: float, high: float) -> bool:
    """Whether two numbers lie far enough apart for bins between them."""
    return high - low > 1e-9 * max(abs(low), abs(high))


def _is_wide(norms: Floats) -> bool:
    return bool(norms.max() > _WIDE * norms.min())
