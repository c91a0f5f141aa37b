"""Controls: what the figures would be without what they are to show. On a sample of rows, by one formula each."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from nla_data.report import likeness
from nla_data.report.deviations import Deviations
from nla_data.report.likeness import Floats
from nla_data.report.rebuilding import Rebuilder
from nla_data.report.rows import Rows
from nla_data.report.sample import Texts
from nla_data.report.statistics import Figure, Figures, Resampler, figures, share

_AT_ONCE: Final = 256
"""Texts whose rebuilt vectors are in memory together where only their agreement counts."""


@dataclass(frozen=True)
class Given:
    """A sample of scored rows, in random order.

    Attributes:
        rows: Their scores [n].
        texts: What was said of them.
        units: Their vectors, scaled to norm 1 [n, d]; None where they cannot be read again.
        distances: Theirs, from the mean of all rows; None as `units`.
        baseline: The served one.
    """

    rows: Rows
    texts: Texts
    units: Floats | None
    distances: Deviations | None
    baseline: float | None


@dataclass(frozen=True)
class Alike:
    """A share or a cosine, beside what it would be by chance; None where it cannot be told."""

    found: Figure | None
    chance: float | None
    rows: int


@dataclass(frozen=True)
class Controls:
    """All that could be told; None for what could not.

    Attributes:
        size: Rows of the sample.
        own: Each text against its own vector.
        shuffled: Each text against another row's vector.
        empty: The empty text against every vector.
        nearest: Each vector against the nearest other of the sample.
        equal: Rows without a nearest other: all others equal them.
        retrieval: How often a text finds its vector among `among`.
        among: Vectors in a lot.
        rebuilt: Agreement of a vector's samples, by the vectors rebuilt from them; by chance: texts of two vectors.
        worded: The same by the texts themselves.
    """

    size: int
    own: Figures
    shuffled: Figures | None
    empty: Figures | None
    nearest: Figures | None
    equal: int
    retrieval: Alike | None
    among: int
    rebuilt: Alike | None
    worded: Alike | None


def controls(given: Given, rebuilder: Rebuilder | None) -> Controls:
    """Tell what can be told; without a rebuilder, without the reconstructor.

    Raises:
        NLAError: the server does not answer as it should.
    """
    size, units = len(given.rows), given.units
    rebuilt = rebuilder.units(given.texts.chosen) if rebuilder else None
    nearest = likeness.to_nearest_other(units) if units is not None else np.empty(0)
    known = np.flatnonzero(np.isfinite(nearest))
    shuffled = empty = retrieval = None
    if units is not None and rebuilder is not None and rebuilt is not None and size > 1:
        shuffled = _scored(given, np.roll(likeness.of_the_next(rebuilt, units), 1))  # each at its vector's row
        empty = _scored(given, units @ rebuilder.units([""])[0])
        retrieval = _retrieval(likeness.found_among(rebuilt, units), size)
    return Controls(
        size=size,
        own=_scored(given, given.rows.cosine),
        shuffled=shuffled,
        empty=empty,
        nearest=_scored(given, nearest, known) if len(known) else None,
        equal=len(nearest) - len(known),
        retrieval=retrieval,
        among=min(likeness.AMONG, size),
        rebuilt=_rebuilt_agreement(given.texts, rebuilder, rebuilt),
        worded=_worded_agreement(given.texts),
    )


def _scored(given: Given, cosine: Floats, members: NDArray[np.int64] | None = None) -> Figures:
    """The figures that texts of such cosines would have."""
    chosen = np.arange(len(cosine)) if members is None else members
    return figures(given.rows.with_cosine(cosine), chosen, given.baseline, given.distances)


def _retrieval(hits: Floats, size: int) -> Alike:
    return Alike(share(hits), 1 / min(likeness.AMONG, size), len(hits))


def _rebuilt_agreement(texts: Texts, rebuilder: Rebuilder | None, rebuilt: Floats | None) -> Alike | None:
    several = [row for row in texts.samples if len(row) > 1]
    if rebuilder is None or rebuilt is None or not several:
        return None
    found: list[float] = []
    step = max(1, _AT_ONCE // max(map(len, several)))
    for begin in range(0, len(several), step):
        some = several[begin : begin + step]
        stops = np.cumsum([len(row) for row in some])
        parts = np.split(rebuilder.units([text for row in some for text in row]), stops[:-1])
        found += [likeness.agreement(part) for part in parts]
    chance = float(likeness.of_the_next(rebuilt, rebuilt).mean()) if len(rebuilt) > 1 else None
    return Alike(_mean(np.array(found)), chance, len(found))


def _worded_agreement(texts: Texts) -> Alike | None:
    several = [row for row in texts.samples if len(row) > 1]
    if not several:
        return None
    found = np.array([likeness.agreement_of_texts(row) for row in several])
    return Alike(_mean(found), _chance_of_texts(texts.chosen[: len(texts.samples)]), len(found))


def _chance_of_texts(chosen: Sequence[str]) -> float | None:
    """Of the texts of two vectors."""
    others = [*chosen[1:], *chosen[:1]]
    told = [likeness.agreement_of_texts(pair) for pair in zip(chosen, others, strict=True)]
    return float(np.mean(told)) if len(chosen) > 1 else None


def _mean(values: Floats) -> Figure | None:
    return Resampler(len(values)).ratio(values, np.ones(len(values)))
