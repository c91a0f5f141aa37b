"""Rows by the value of a column."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nla_data.errors import UsageError
from nla_data.report.words import readable, values

MAX_VALUES: Final = 100
NO_VALUE: Final = "(no value)"


@dataclass(frozen=True)
class Grouping:
    """For each row, the number of its group.

    Attributes:
        name: The column; empty for all rows as one group.
        labels: The groups' values, in order.
        codes: int64 [N].
    """

    name: str
    labels: list[Any]
    codes: NDArray[np.int64]

    @classmethod
    def whole(cls, rows: int) -> "Grouping":
        """All rows as one group."""
        return cls("", ["all"], np.zeros(rows, np.int64))

    def members(self, group: int) -> NDArray[np.int64]:
        """The rows of a group."""
        return np.flatnonzero(self.codes == group)


class TooManyValuesError(UsageError):
    """A column has more values than a table should have lines."""


class Codes:
    """Learns a column's values, batch by batch."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._codes: dict[Any, int] = {}
        self._batches: list[NDArray[np.int64]] = []

    def add(self, column: pa.Array) -> None:
        """The next rows.

        Raises:
            TooManyValuesError: there are more than can be shown.
        """
        encoded = readable(column).dictionary_encode()
        own = [self._code(value) for value in values(encoded.dictionary)]
        indices = encoded.indices
        missing = self._code(None) if indices.null_count else 0
        # One more at the end, for rows without a value.
        table = np.array([*own, missing], np.int64)
        self._batches.append(table[indices.fill_null(len(own)).to_numpy(zero_copy_only=False).astype(np.int64)])

    def grouping(self) -> Grouping:
        """The rows, with values in order: numbers by size, all else by name."""
        ordered = sorted(self._codes, key=_order)
        place = np.empty(max(len(ordered), 1), np.int64)
        for index, value in enumerate(ordered):
            place[self._codes[value]] = index
        codes = np.concatenate(self._batches) if self._batches else np.empty(0, np.int64)
        return Grouping(self.name, [NO_VALUE if value is None else value for value in ordered], place[codes])

    def _code(self, value: Any) -> int:
        value = None if value != value else value  # noqa: PLR0124 - NaN is no value, and unlike itself
        code = self._codes.setdefault(value, len(self._codes))
        if code >= MAX_VALUES:
            raise TooManyValuesError(f"--group {self.name}: more than {MAX_VALUES} values, too many for a table")
        return code


def _order(value: Any) -> tuple[int, float, str]:
    if value is None:
        return 2, 0.0, ""
    return (0, float(value), "") if isinstance(value, int | float | Decimal) else (1, 0.0, str(value))
