"""The numbers of all scored rows, and what became of the others. Texts and vectors stay on disk."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nla_data.errors import UsageError
from nla_data.report.grouping import Codes, Grouping, TooManyValuesError
from nla_data.report.results import Results

LAYER: Final = "layer"
_NUMBERS: Final = ("mse", "cosine", "norm", "mse_mean", "mse_std")
_BATCH_ROWS: Final = 16_384

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Rows:
    """The scored rows: those without an error. All arrays are [N], in the order of the output.

    Attributes:
        count: All rows of the output.
        failed: How many rows failed, by reason.
        incomplete: Rows whose chosen text lacks its closing tag.
        place: Which rows of the output these are.
        input_row: Which rows of the input they are.
        mse_mean: Over a vector's samples, NaN where not all have a score.
        mse_std: As `mse_mean`.
        groupings: By layer, if there is such a column, and by what was asked for.
    """

    count: int
    failed: Counter[str]
    incomplete: int
    place: NDArray[np.int64]
    input_row: NDArray[np.int64]
    mse: Floats
    cosine: Floats
    norm: Floats
    mse_mean: Floats
    mse_std: Floats
    groupings: list[Grouping]

    def __len__(self) -> int:
        return len(self.mse)

    @property
    def good(self) -> int:
        """Rows that did not fail."""
        return self.count - self.failed.total()

    def take(self, members: NDArray[np.int64]) -> "Rows":
        """Some of them, in that order; the counts are of all, and there are no groupings."""
        arrays = {name: getattr(self, name)[members] for name in (*_NUMBERS, "place", "input_row")}
        return replace(self, groupings=[], **arrays)

    def with_cosine(self, cosine: Floats) -> "Rows":
        """The same vectors with the scores of other texts, cosine [N]."""
        return replace(self, cosine=cosine, mse=2 * (1 - cosine))

    def spread(self) -> tuple[float, float] | None:
        """Mean over the rows of `mse_mean` and of `mse_std`."""
        told = np.isfinite(self.mse_mean)
        return (float(self.mse_mean[told].mean()), float(self.mse_std[told].mean())) if told.any() else None


def read(results: Results, groups: Sequence[str]) -> Rows:
    """Read them.

    Raises:
        UsageError: a group column that is not there, or has too many values.
    """
    gathered = _Gathered(_codes(results.schema, groups), set(groups))
    columns = dict.fromkeys([*_NUMBERS, "input_row", "error", "complete", *gathered.codes])
    for batch in results.batches(list(columns), _BATCH_ROWS):
        gathered.add(batch)
    return gathered.rows()


class _Gathered:
    """What was read so far."""

    def __init__(self, codes: dict[str, Codes], asked: set[str]) -> None:
        self.codes, self._asked = codes, asked
        self._count = self._incomplete = 0
        self._failed = Counter[str]()
        self._arrays: dict[str, list[NDArray[Any]]] = {name: [] for name in (*_NUMBERS, "input_row", "place")}

    def add(self, batch: pa.RecordBatch) -> None:
        error = batch.column("error")
        self._failed.update(error.drop_null().to_pylist())
        scored = pc.and_(error.is_null(), batch.column("mse").is_valid())
        self._incomplete += pc.sum(pc.equal(batch.column("complete"), False)).as_py() or 0
        kept = batch.filter(scored)
        for name in (*_NUMBERS, "input_row"):
            self._arrays[name].append(kept.column(name).to_numpy(zero_copy_only=False))
        self._arrays["place"].append(self._count + np.flatnonzero(scored.to_numpy(zero_copy_only=False)))
        self._count += batch.num_rows
        for name in list(self.codes):
            self._group(name, kept.column(name))

    def _group(self, name: str, column: pa.Array) -> None:
        try:
            self.codes[name].add(column)
        except TooManyValuesError:
            if name in self._asked:
                raise
            del self.codes[name]  # a column that merely is called so

    def rows(self) -> Rows:
        empty = {name: np.empty(0, np.float64 if name in _NUMBERS else np.int64) for name in self._arrays}
        joined = {name: np.concatenate([empty[name], *parts]) for name, parts in self._arrays.items()}
        numbers = {name: joined[name].astype(np.float64) for name in _NUMBERS}
        return Rows(
            count=self._count,
            failed=self._failed,
            incomplete=self._incomplete,
            place=joined["place"],
            input_row=joined["input_row"].astype(np.int64),
            groupings=[codes.grouping() for codes in self.codes.values()],
            **numbers,
        )


def _codes(schema: pa.Schema, groups: Sequence[str]) -> dict[str, Codes]:
    for name in groups:
        if name not in schema.names:
            raise UsageError(f"--group {name}: the output has no such column; it has {', '.join(schema.names)}")
        if pa.types.is_nested(schema.field(name).type):
            raise UsageError(f"--group {name}: holds {schema.field(name).type}, not single values")
    has_layer = LAYER in schema.names and not pa.types.is_nested(schema.field(LAYER).type)
    return {name: Codes(name) for name in dict.fromkeys([LAYER] * has_layer + list(groups))}
