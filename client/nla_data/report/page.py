"""The page: figures, plots and examples as one HTML file that needs nothing else."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import PurePosixPath
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined

from nla_data.report import facts
from nla_data.report.controls import Controls
from nla_data.report.examples import Example
from nla_data.report.plots import Plot
from nla_data.report.results import Results
from nla_data.report.rows import Rows
from nla_data.report.statistics import MIN_ROWS, RESAMPLES, Figure, Figures
from nla_data.report.tail import Tail


@dataclass(frozen=True)
class Table:
    """Figures by the value of a column."""

    name: str
    lines: Sequence[tuple[str, Figures]]


@dataclass(frozen=True)
class Content:
    """All that the page shows.

    Attributes:
        unavailable: The sentence that says why the vectors could not be read again; None if they were.
        spread: Mean over rows of the samples' mean mse and of their standard deviation, where there are several.
        denominators: The means that the second and third fve are measured against, by row.
        files: The folder where the plots are, too.
        controls: On a sample of the rows; None where no row has a score.
        tails: By the name of the error.
        asked: Whether a server rebuilt texts for the controls.
    """

    results: Results
    rows: Rows
    figures: Figures
    tables: Sequence[Table]
    unavailable: str | None
    spread: tuple[float, float] | None
    denominators: tuple[float, float] | None
    plots: Sequence[Plot]
    examples: dict[str, list[Example]]
    files: str
    controls: Controls | None
    tails: dict[str, Tail]
    asked: bool

    @property
    def samples(self) -> int:
        """Of each vector."""
        return int(self.results.manifest.settings.get("n", 1))

    @property
    def best_of(self) -> int:
        """From how many samples each row's was chosen by its score."""
        return facts.best_of(self.results.manifest)


def render(content: Content) -> str:
    """Form the page. All text that comes from elsewhere is escaped."""
    manifest = content.results.manifest
    told: dict[str, Any] = {
        "run": facts.run(content.results),
        "settings": facts.settings(manifest),
        "inputs": facts.inputs(manifest),
        "counts": facts.counts(content.rows),
        "failures": facts.failures(content.rows),
        "cost": facts.cost(content.results),
    }
    return form(
        "template.html",
        content=content,
        manifest=manifest,
        facts=told,
        resamples=RESAMPLES,
        min_rows=MIN_ROWS,
        out=content.results.store.out,
        name=PurePosixPath(content.results.store.out).name,
    )


def form(template: str, **told: Any) -> str:
    """A page from one of the templates beside this module."""
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=FunctionLoader(lambda name: resources.files(__package__).joinpath(name).read_text("utf-8")),
    )
    environment.filters |= {"number": number, "interval": interval, "signed": signed, "image": _image}
    return environment.get_template(template).render(**told)


def number(value: float) -> str:
    """Four digits."""
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e9 else f"{value:.4g}"


def interval(figure: Figure | None, form: str = ".4f") -> str:
    """Where a figure probably is."""
    if figure is None or figure.low is None or figure.high is None:
        return ""
    return f"{figure.low:{form}} to {figure.high:{form}}"


def signed(value: float) -> str:
    """Four places, with a sign."""
    return f"{value + 0.0:+.4f}"


def _image(plot: Plot) -> str:
    return f"data:image/png;base64,{base64.b64encode(plot.png).decode()}"
