"""From an output to its report on disk."""

import os
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nla_data.given import as_list
from nla_data.report import controls, examples, originals, page, plots, rows, sample, statistics, tail, targets
from nla_data.report.deviations import Deviations, deviations
from nla_data.report.grouping import Grouping
from nla_data.report.likeness import unit
from nla_data.report.originals import UnavailableError
from nla_data.report.plots import Plot
from nla_data.report.rebuilding import Rebuilder, rebuilder
from nla_data.report.results import Results
from nla_data.report.rows import LAYER, Rows
from nla_data.report.targets import StrPath


def write_report(
    out: StrPath,
    to: StrPath | None = None,
    groups: str | Sequence[str] = (),
    url: str | None = None,
    api_key: str | None = None,
    *,
    model: str | None = None,
) -> Path:
    """Write the page and its plots; returns where the page is. One group may stand alone, without a list.

    Args:
        out: What `nla verbalize --score` or `nla explain --score` wrote.
        to: The page; by default beside `out`.
        groups: Columns by whose values the figures are told, too.
        url: Of a server with the run's reconstructor, for the controls that need it.
        api_key: Its key.
        model: Name of its pair, where it has several.

    Raises:
        UsageError: no output with scores, a column that is not there or has too many values, no place to write to, or
            a server with another reconstructor.
        NLAError: the server does not answer as it should.
    """
    results = Results.open(os.fspath(out))
    target = targets.of(results, None if to is None else os.fspath(to))
    read = rows.read(results, as_list(groups))
    with rebuilder(url, api_key, model, results.manifest.served) if url else nullcontext() as server:
        content = _content(results, read, target, server)
    targets.write(target, page.render(content), content.plots)
    return target


def _content(results: Results, read: Rows, target: Path, server: Rebuilder | None) -> page.Content:
    baseline = results.manifest.served.predict_mean_mse
    groupings = [Grouping.whole(len(read)), *read.groupings]
    chosen = sample.choose(len(read))
    distances, vectors, unavailable = _distances(results, read, groupings, chosen)
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
        files=targets.files(target).name,
        controls=controls.controls(_given(results, read, chosen, vectors, whole), server) if len(read) else None,
        tails=tail.tails(read),
        asked=server is not None,
    )


def _given(
    results: Results,
    read: Rows,
    chosen: NDArray[np.int64],
    vectors: NDArray[np.float32] | None,
    distances: Deviations | None,
) -> controls.Given:
    return controls.Given(
        rows=read.take(chosen),
        texts=sample.Texts.read(results, read, chosen),
        units=None if vectors is None else unit(vectors),
        distances=Deviations(distances.unit[chosen], distances.raw[chosen]) if distances else None,
        baseline=results.manifest.served.predict_mean_mse,
    )


def _distances(
    results: Results, read: Rows, groupings: Sequence[Grouping], chosen: NDArray[np.int64]
) -> tuple[Sequence[Deviations | None], NDArray[np.float32] | None, str | None]:
    """Of each grouping, and the vectors of the chosen rows; or why there are none."""
    none = [None] * len(groupings)
    if not len(read):
        return none, None, "No row has a score."
    try:
        kept = sample.Kept(originals.pieces(results, read), chosen)
        return deviations(kept, groupings), kept.vectors, None
    except UnavailableError as error:
        return none, None, str(error)


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
