"""Some of the scored rows, drawn with a fixed seed: their vectors and texts, for what would take too long on all."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from nla_data.report.originals import Pieces, Vectors
from nla_data.report.picking import BATCH_ROWS, picked
from nla_data.report.results import Results
from nla_data.report.rows import Rows

SIZE: Final = 1000
SEED: Final = 0
MAX_SAMPLES: Final = 4000
"""Most samples whose agreement is looked at, of as many rows as have so many."""

_Indices = NDArray[np.int64]


def choose(count: int) -> _Indices:
    """Which of `count` rows are looked at, in a random order: all of them where there are at most SIZE."""
    return np.random.default_rng(SEED).permutation(count)[:SIZE]


class Kept:
    """Goes over pieces as they do, and keeps the vectors of the chosen rows as they come by.

    Args:
        pieces: All vectors.
        chosen: Which are kept [n], in any order.
    """

    def __init__(self, pieces: Pieces, chosen: _Indices) -> None:
        self._pieces, self._order = pieces, np.argsort(chosen)
        self._sorted = chosen[self._order]
        self._vectors = np.empty((0, 0), np.float32)

    def __call__(self) -> Iterator[tuple[slice, Vectors]]:
        """Go over all of them once."""
        for taken, found in self._pieces():
            if not self._vectors.size:
                self._vectors = np.empty((len(self._order), found.shape[1]), np.float32)
            low, high = np.searchsorted(self._sorted, (taken.start, taken.stop))
            self._vectors[self._order[low:high]] = found[self._sorted[low:high] - taken.start]
            yield taken, found

    @property
    def vectors(self) -> NDArray[np.float32]:
        """float32 [n, d], in the order of `chosen`; they were float32 before."""
        return self._vectors


@dataclass(frozen=True)
class Texts:
    """The texts of a sample's rows, in its order.

    Attributes:
        chosen: The explanation of each row [n].
        samples: Of each of the first rows, as many as MAX_SAMPLES allows, all with a score; none where a row has one.
    """

    chosen: list[str]
    samples: list[list[str]]

    @classmethod
    def read(cls, results: Results, rows: Rows, chosen: _Indices) -> "Texts":
        """Read them.

        Raises:
            UsageError: the output cannot be read.
        """
        number = int(results.manifest.settings.get("n", 1))
        texts = _in_order(results, rows.place[chosen], "explanation", BATCH_ROWS)
        if number < 2:
            return cls([it or "" for it in texts], [])
        first = chosen[: max(2, MAX_SAMPLES // number)]
        samples = _in_order(results, rows.place[first], "samples", max(1, BATCH_ROWS // number))
        return cls([it or "" for it in texts], [_scored(row or ()) for row in samples])


def _scored(samples: Sequence[dict[str, Any]]) -> list[str]:
    """Texts of those that have a score: no reconstructor reads the others."""
    return [it["text"] or "" for it in samples if it["mse"] is not None]


def _in_order(results: Results, places: _Indices, column: str, batch_rows: int) -> list[Any]:
    found = [told[column] for told in picked(results, places, [column], batch_rows)]
    return [found[k] for k in np.argsort(np.argsort(places)).tolist()]
