"""The worst rows beside the means: whether a few rows are most of what is left unexplained."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from nla_data.report.rows import Floats, Rows

ONE_IN: Final = 100


@dataclass(frozen=True)
class Tail:
    """A kind of error over all rows, and over the one in ONE_IN where it is largest.

    Attributes:
        rows: How many these are, at least 1.
        least: The smallest error among them.
        median: Of all rows.
        mean: Of all rows.
        others: Mean of all but these; None where there are no others.
        worst: Mean of these.
        share: Of the sum over all rows, what these are; None where that is 0.
    """

    rows: int
    least: float
    median: float
    mean: float
    others: float | None
    worst: float
    share: float | None


def of(errors: Floats) -> Tail:
    """Of errors [N], N at least 1, none negative."""
    count = -(-len(errors) // ONE_IN)
    ordered = np.sort(errors)
    others, worst, total = ordered[:-count], ordered[-count:], ordered.sum()
    return Tail(
        rows=count,
        least=float(worst[0]),
        median=float(np.median(ordered)),
        mean=float(ordered.mean()),
        others=float(others.mean()) if len(others) else None,
        worst=float(worst.mean()),
        share=float(worst.sum() / total) if total > 0 else None,
    )


def tails(rows: Rows) -> dict[str, Tail]:
    """By the name of the error: at norm sqrt(d), and at the true norm."""
    errors = {"mse": rows.mse, "raw": 2 * np.square(rows.norm) * (1 - rows.cosine)}
    return {name: of(np.maximum(it, 0.0)) for name, it in errors.items()} if len(rows) else {}
