"""Some rows of an output, by their place in it, read as a stream."""

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nla_data.report.results import Results
from nla_data.report.words import values

BATCH_ROWS: Final = 4096


def picked(
    results: Results, places: NDArray[np.int64], columns: Sequence[str], batch_rows: int = BATCH_ROWS
) -> Iterator[dict[str, Any]]:
    """Their values by column, in the order of the output; `places` are in any order, each once.

    Raises:
        UsageError: the output cannot be read.
    """
    begin, columns, ordered = 0, list(dict.fromkeys(columns)), np.sort(places)
    for batch in results.batches(columns, batch_rows):
        low, high = np.searchsorted(ordered, (begin, begin + batch.num_rows))
        if high > low:
            chosen = batch.take(pa.array(ordered[low:high] - begin))
            told = {name: values(chosen.column(name)) for name in columns}
            yield from (dict(zip(told, row, strict=True)) for row in zip(*told.values(), strict=True))
        begin += batch.num_rows
