"""Rows to look at: the worst, the best, and some at random."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nla_data.report.picking import picked
from nla_data.report.results import REPORTED, Results
from nla_data.report.rows import Rows
from nla_data.report.words import readable

COUNT: Final = 10
SEED: Final = 0
MAX_COLUMNS: Final = 8
FIRST: Final = ("doc_id", "position", "token")
"""Columns that say which token a row is of."""
MAX_TEXT: Final = 80


@dataclass(frozen=True)
class Example:
    """One row.

    Attributes:
        row: Its number in the input.
        explanation: The chosen text.
        mse: Its score.
        fve: By the served baseline, if there is one.
        norm: Of the vector.
        spread: Mean and standard deviation of the samples' mse, where there are several.
        carried: Short columns of the input.
    """

    row: int
    explanation: str
    mse: float
    fve: float | None
    norm: float
    spread: tuple[float, float] | None
    carried: dict[str, str]


def choose(rows: Rows) -> dict[str, NDArray[np.int64]]:
    """Which of the scored rows, by the title of their list."""
    order = np.argsort(rows.mse, kind="stable")
    some = np.sort(np.random.default_rng(SEED).permutation(len(rows))[:COUNT])
    return {"Worst": order[::-1][:COUNT], "Best": order[:COUNT], "At random": some}


def read(results: Results, rows: Rows) -> dict[str, list[Example]]:
    """The lists, by title.

    Raises:
        UsageError: the output cannot be read.
    """
    chosen = choose(rows)
    carried = carried_columns(results.schema)
    wanted = np.unique(np.concatenate(list(chosen.values())))
    texts = dict(zip(wanted.tolist(), picked(results, rows.place[wanted], ["explanation", *carried]), strict=True))
    manifest = results.manifest
    baseline, several = manifest.served.predict_mean_mse, manifest.settings.get("n", 1) > 1
    return {
        title: [_example(rows, index, dict(texts[index]), baseline, several=several) for index in numbers.tolist()]
        for title, numbers in chosen.items()
    }


def _example(rows: Rows, index: int, told: dict[str, Any], baseline: float | None, *, several: bool) -> Example:
    mse = float(rows.mse[index])
    mean, std = float(rows.mse_mean[index]), float(rows.mse_std[index])
    explanation = told.pop("explanation")
    return Example(
        row=int(rows.input_row[index]),
        explanation=explanation or "",
        mse=mse,
        fve=1 - mse / baseline if baseline else None,
        norm=float(rows.norm[index]),
        spread=(mean, std) if several and np.isfinite(mean) else None,
        carried=shortened(told),
    )


def shortened(told: dict[str, Any]) -> dict[str, str]:
    """Values as words, short enough for a line; without those that are not there."""
    return {name: _short(value) for name, value in told.items() if value is not None}


def carried_columns(schema: pa.Schema) -> list[str]:
    """The input's columns whose values may be short."""
    own = {name for task in REPORTED.values() for name in task().output(0).names} - {*FIRST}
    names = [it.name for it in schema if it.name not in own and _is_short(it.type)]
    return sorted(names, key=lambda name: name not in FIRST)[:MAX_COLUMNS]


def _is_short(kind: pa.DataType) -> bool:
    plain = readable(pa.nulls(0, kind)).type
    kinds = (pa.types.is_nested, pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary)
    return not any(kind(plain) for kind in kinds)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT - 1]}…"
