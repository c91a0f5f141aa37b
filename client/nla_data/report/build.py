"""From an output to its report on disk."""

import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Final

import numpy as np

from nla_data.errors import UsageError
from nla_data.given import as_list
from nla_data.reading.files import reason
from nla_data.report import examples, originals, page, plots, rows, statistics
from nla_data.report.deviations import Deviations, deviations
from nla_data.report.grouping import Grouping
from nla_data.report.originals import UnavailableError
from nla_data.report.plots import Plot
from nla_data.report.results import Results
from nla_data.report.rows import LAYER, Rows

_ENDINGS: Final = (".html", ".htm")
_PLOTS: Final = ("fve", "mse", "norm", "norm_against", "by_layer")


StrPath = str | os.PathLike[str]


def write_report(out: StrPath, to: StrPath | None = None, groups: str | Sequence[str] = ()) -> Path:
    """Write the page and its plots; returns where the page is. One group may stand alone, without a list.

    Raises:
        UsageError: no output with scores, a column that is not there or has too many values, or no place to write to.
    """
    results = Results.open(os.fspath(out))
    target = _target(results, None if to is None else os.fspath(to))
    read = rows.read(results, as_list(groups))
    content = _content(results, read, target.with_name(f"{target.stem}_files"))
    try:
        _write(target, page.render(content), content.plots)
    except OSError as error:
        raise UsageError(f"{target}: cannot be written: {reason(error)}") from error
    return target


def _target(results: Results, to: str | None) -> Path:
    if to is None and not results.store.local:
        raise UsageError(f"{results.store.out} is not on this machine: say with --to where the report goes")
    place = PurePosixPath(results.store.file or results.store.folder)
    path = Path(to).expanduser() if to else Path(place.with_suffix(".html") if results.store.file else f"{place}.html")
    if path.suffix.lower() not in _ENDINGS:
        raise UsageError(f"--to {path}: must end in .html")
    return path


def _content(results: Results, read: Rows, files: Path) -> page.Content:
    baseline = results.manifest.served.predict_mean_mse
    groupings = [Grouping.whole(len(read)), *read.groupings]
    distances, unavailable = _distances(results, read, groupings)
    figures = [
        [statistics.figures(read, grouping.members(code), baseline, found) for code in range(len(grouping.labels))]
        for grouping, found in zip(groupings, distances, strict=True)
    ]
    whole = distances[0]
    return page.Content(
        results=results,
        rows=read,
        figures=figures[0][0],
        tables=[
            page.Table(grouping.name, list(zip(map(str, grouping.labels), lines, strict=True)))
            for grouping, lines in zip(groupings[1:], figures[1:], strict=True)
        ],
        unavailable=unavailable,
        spread=read.spread() if results.manifest.settings.get("n", 1) > 1 else None,
        denominators=(float(whole.unit.mean()), float(whole.raw.mean())) if whole else None,
        plots=_plots(read, baseline, groupings, figures),
        examples=examples.read(results, read) if len(read) else {},
        files=files.name,
    )


def _distances(
    results: Results, read: Rows, groupings: Sequence[Grouping]
) -> tuple[Sequence[Deviations | None], str | None]:
    """Of each grouping, or why there are none."""
    none = [None] * len(groupings)
    if not len(read):
        return none, "No row has a score."
    try:
        return deviations(originals.pieces(results, read), groupings), None
    except UnavailableError as error:
        return none, str(error)


def _plots(
    read: Rows, baseline: float | None, groupings: Sequence[Grouping], figures: Sequence[Sequence[statistics.Figures]]
) -> list[Plot]:
    if not len(read):
        return []
    label = "fve, served baseline" if baseline else "mse"
    values = np.asarray(1 - read.mse / baseline if baseline else read.mse)
    drawn = [
        plots.histogram("fve" if baseline else "mse", label, values),
        plots.histogram("norm", "norm of the vector", read.norm, norms=True),
        plots.norm_against(label, read.norm, values),
    ]
    for grouping, lines in zip(groupings, figures, strict=True):
        told = [it.fve_served if baseline else it.mse for it in lines]
        layers = [(layer, it) for layer, it in zip(grouping.labels, told, strict=True) if it]
        if grouping.name == LAYER and layers:
            drawn.append(plots.by_layer(label if baseline else "mean mse", *zip(*layers, strict=True)))
    return drawn


def _write(target: Path, html: str, drawn: Sequence[Plot]) -> None:
    folder = target.with_name(f"{target.stem}_files")
    folder.mkdir(parents=True, exist_ok=True)
    for name in _PLOTS:
        (folder / f"{name}.png").unlink(missing_ok=True)  # of an earlier report
    for plot in drawn:
        (folder / f"{plot.name}.png").write_bytes(plot.png)
    target.write_text(html, "utf-8")
