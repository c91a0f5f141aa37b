"""Columns of results as tables, alike in clients and files whatever values are missing. pyarrow loads when needed."""

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import pyarrow as pa

SCORES: Final[dict[str, type]] = {"mse": float, "cosine": float, "fve": float}
"""By name, what pandas is to hold a column as."""
SAMPLES: Final[dict[str, type]] = {"text": str, "complete": bool, "finish_reason": str, **SCORES}
VERBALIZATIONS: Final[dict[str, type]] = {
    **{"explanation" if name == "text" else name: kind for name, kind in SAMPLES.items()},
    "samples": object,
}


def scores() -> "pa.Schema":
    """Of scores."""
    return _schema(SCORES)


def verbalizations() -> "pa.Schema":
    """Of chosen samples, with all samples of the vector beside each."""
    import pyarrow as pa

    plain = {name: kind for name, kind in VERBALIZATIONS.items() if kind is not object}
    return _schema(plain).append(pa.field("samples", pa.list_(pa.struct(list(_schema(SAMPLES))))))


def _schema(columns: dict[str, type]) -> "pa.Schema":
    import pyarrow as pa

    types = {str: pa.string(), bool: pa.bool_(), float: pa.float64()}
    return pa.schema([(name, types[kind]) for name, kind in columns.items()])
