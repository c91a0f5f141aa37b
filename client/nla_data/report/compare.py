"""From two outputs to the page that compares them."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from nla_data.given import as_list
from nla_data.report import comparison, examples, originals, plots, rows, targets
from nla_data.report.deviations import Deviations, deviations
from nla_data.report.differences import Indices, Paired, difference, farthest, shares
from nla_data.report.grouping import Grouping
from nla_data.report.originals import UnavailableError
from nla_data.report.pairing import Pairing, Run, pair
from nla_data.report.picking import picked
from nla_data.report.plots import Plot
from nla_data.report.results import Results
from nla_data.report.statistics import figures
from nla_data.report.targets import StrPath

_UNPAIRED: Final = "(in one run alone)"


def write_comparison(
    first: StrPath, second: StrPath, to: StrPath | None = None, groups: str | Sequence[str] = ()
) -> Path:
    """Write the page and its plots; returns where the page is. Differences are the second run minus the first.

    Args:
        first: What `nla verbalize --score` or `nla explain --score` wrote.
        second: The same of another run over the same rows.
        to: The page; by default beside `first`, by both names.
        groups: Columns of `first` by whose values the differences are told, too (beside layer).

    Raises:
        UsageError: no outputs with scores, not two runs of the same rows, a column that is not there or has too many
            values, or no place to write to.
    """
    opened = [Results.open(os.fspath(out)) for out in (first, second)]
    target = targets.of(opened[0], None if to is None else os.fspath(to), opened[1])
    runs = Run(opened[0], rows.read(opened[0], as_list(groups))), Run(opened[1], rows.read(opened[1], ()))
    content = _content(*runs, pair(*runs), target)
    targets.write(target, comparison.render(content), content.plots)
    return target


def _content(first: Run, second: Run, found: Pairing, target: Path) -> comparison.Content:
    groupings = [_paired_alone(it, found) for it in (Grouping.whole(len(first.rows)), *first.rows.groupings)]
    distances, unavailable = _distances(first, second, found, groupings)
    baselines = first.results.manifest.served.predict_mean_mse, second.results.manifest.served.predict_mean_mse
    both = first.rows.take(found.first), second.rows.take(found.second)
    tables = []
    for grouping, told in zip(groupings, distances, strict=True):
        paired = Paired(*both, baselines, told)
        codes = grouping.codes[found.first]
        lines = [
            comparison.Line(label, difference(paired, members), shares(paired, members))
            for code, label in enumerate(map(str, grouping.labels))
            if label != _UNPAIRED and len(members := np.flatnonzero(codes == code))
        ]
        tables.append(comparison.Table(grouping.name, lines))
    whole = Paired(*both, baselines, distances[0])
    everyone = np.arange(len(found.first))
    return comparison.Content(
        runs=(first, second),
        pairing=found,
        figures=tuple(
            figures(scores, everyone, baseline, whole.distances)
            for scores, baseline in zip(both, baselines, strict=True)
        ),
        whole=tables[0].lines[0],
        tables=tables[1:],
        unavailable=unavailable,
        plots=_plots(whole),
        examples=_examples(first, second, found, whole),
        files=targets.files(target).name,
    )


def _paired_alone(grouping: Grouping, found: Pairing) -> Grouping:
    """The same, with rows that have no partner in a group of their own: means are of what is compared."""
    codes = np.full(len(grouping.codes), len(grouping.labels))
    codes[found.first] = grouping.codes[found.first]
    return replace(grouping, labels=[*grouping.labels, _UNPAIRED], codes=codes)


def _distances(
    first: Run, second: Run, found: Pairing, groupings: Sequence[Grouping]
) -> tuple[list[Deviations | None], str | None]:
    """Of the pairs, by grouping; from whichever run's vectors can be read again, for they are the same."""
    try:
        told = deviations(originals.pieces(first.results, first.rows), groupings)
        return [Deviations(it.unit[found.first], it.raw[found.first]) for it in told], None
    except UnavailableError as error:
        why = str(error)
    try:
        moved = [_of_second(it, found, len(second.rows)) for it in groupings]
        told = deviations(originals.pieces(second.results, second.rows), moved)
        return [Deviations(it.unit[found.second], it.raw[found.second]) for it in told], None
    except UnavailableError:
        return [None] * len(groupings), why


def _of_second(grouping: Grouping, found: Pairing, count: int) -> Grouping:
    """A grouping of the first run's rows as one of the second's."""
    codes = np.full(count, len(grouping.labels) - 1)
    codes[found.second] = grouping.codes[found.first]
    return replace(grouping, codes=codes)


def _plots(paired: Paired) -> list[Plot]:
    return [
        plots.histogram("difference", "mse of B minus mse of A", paired.mse),
        plots.pairs("mse of A", paired.first.mse, "mse of B", paired.second.mse),
    ]


def _examples(first: Run, second: Run, found: Pairing, paired: Paired) -> dict[str, list[comparison.Example]]:
    won, lost = farthest(paired, examples.COUNT)
    wanted = np.unique(np.concatenate([won, lost]))
    carried = examples.carried_columns(first.results.schema)
    mine = _told(first, found.first[wanted], ["explanation", *carried])
    theirs = _told(second, found.second[wanted], ["explanation"])
    made = {
        index: comparison.Example(
            row=int(paired.first.input_row[index]),
            texts=(mine[k].pop("explanation") or "", theirs[k]["explanation"] or ""),
            mse=(float(paired.first.mse[index]), float(paired.second.mse[index])),
            carried=examples.shortened(mine[k]),
        )
        for k, index in enumerate(wanted.tolist())
    }
    lists = {"Won most by B": won, "Lost most by B": lost}
    return {title: [made[index] for index in chosen.tolist()] for title, chosen in lists.items() if len(chosen)}


def _told(run: Run, chosen: Indices, columns: Sequence[str]) -> list[dict[str, Any]]:
    """Columns of some scored rows, in the order of `chosen`."""
    places = run.rows.place[chosen]
    found = list(picked(run.results, places, columns))
    return [found[k] for k in np.argsort(np.argsort(places)).tolist()]
