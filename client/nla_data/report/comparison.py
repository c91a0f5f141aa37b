"""The page that compares two runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from nla_data.report import facts
from nla_data.report.differences import TIE, Shares
from nla_data.report.page import form
from nla_data.report.pairing import Pairing, Run
from nla_data.report.plots import Plot
from nla_data.report.statistics import MIN_ROWS, RESAMPLES, Figures


@dataclass(frozen=True)
class Line:
    """Some pairs: the differences, and who won."""

    label: str
    figures: Figures
    shares: Shares


@dataclass(frozen=True)
class Table:
    """Pairs by the value of a column."""

    name: str
    lines: Sequence[Line]


@dataclass(frozen=True)
class Example:
    """A pair: both texts, both errors, and short columns of the first run's row."""

    row: int
    texts: tuple[str, str]
    mse: tuple[float, float]
    carried: dict[str, str]


@dataclass(frozen=True)
class Content:
    """All that the page shows. Of two of a kind, the first run's comes first.

    Attributes:
        figures: Each run's own, of the rows in both.
        unavailable: The sentence that says why the vectors could not be read again; None if they were.
        examples: By title.
        files: The folder where the plots are, too.
    """

    runs: tuple[Run, Run]
    pairing: Pairing
    figures: tuple[Figures, ...]
    whole: Line
    tables: Sequence[Table]
    unavailable: str | None
    plots: Sequence[Plot]
    examples: dict[str, list[Example]]
    files: str


def render(content: Content) -> str:
    """Form the page. All text that comes from elsewhere is escaped."""
    outs = [run.out for run in content.runs]
    return form(
        "comparison.html",
        content=content,
        outs=outs,
        names=[PurePosixPath(out).name for out in outs],
        unfinished=[name for name, run in zip("AB", content.runs, strict=True) if not run.results.manifest.finished],
        differing=_differing(content.runs),
        best_of=[facts.best_of(run.results.manifest) for run in content.runs],
        counts=_counts(content),
        baselines=[run.results.manifest.served.predict_mean_mse for run in content.runs],
        resamples=RESAMPLES,
        min_rows=MIN_ROWS,
        tie=f"{TIE:g}",
    )


def _differing(runs: tuple[Run, Run]) -> list[tuple[str, str, str]]:
    """What the runs do not share: models, settings, baselines."""
    both: list[dict[str, Any]] = []
    for run in runs:
        manifest = run.results.manifest
        both.append(
            dict(facts.run(run.results))
            | {f"{role}'s fingerprint": facts.fingerprint(model) for role, model in facts.models(manifest)}
            | {"predict_mean_mse": str(manifest.served.predict_mean_mse)}
            | dict(facts.settings(manifest))
        )
    first, second = both
    told_elsewhere = ("Command", "Started")
    return [
        (name, str(first.get(name, "none")), str(second.get(name, "none")))
        for name in first | second
        if name not in told_elsewhere and first.get(name) != second.get(name)
    ]


def _counts(content: Content) -> list[tuple[str, str]]:
    (first, second), found = content.runs, content.pairing
    pairs = len(found.first)
    return [
        ("Pairs", f"{pairs:,}"),
        ("Matched by", " and ".join(found.by)),
        ("Inputs", "the same files" if found.same_inputs else "other files, with the same vectors"),
        ("Scored in A alone, left out", f"{len(first.rows) - pairs:,}"),
        ("Scored in B alone, left out", f"{len(second.rows) - pairs:,}"),
    ]
