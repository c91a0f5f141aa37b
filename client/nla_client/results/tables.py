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
READ: Final[dict[str, type]] = {
    "index": int,
    "token": str,
    "token_id": int,
    "position": int,
    "norm": float,
    "remark": object,
}
EXTRACTIONS: Final[dict[str, type]] = {**READ, "activation_vector": object}
EXPLANATIONS: Final[dict[str, type]] = {**READ, **VERBALIZATIONS}
ABLATIONS: Final[dict[str, type]] = {"index": int, "text": str, "start": int, "end": int, "carried": float, **SCORES}


def scores() -> "pa.Schema":
    """Of scores."""
    return _schema(SCORES)


def verbalizations() -> "pa.Schema":
    """Of chosen samples, with all samples of the vector beside each."""
    return _schema(VERBALIZATIONS)


def extractions() -> "pa.Schema":
    """Of tokens with their vectors."""
    return _schema(EXTRACTIONS)


def explanations() -> "pa.Schema":
    """Of tokens with what is said of them, with all samples beside each."""
    return _schema(EXPLANATIONS)


def ablations() -> "pa.Schema":
    """Of parts of texts."""
    return _schema(ABLATIONS)


def _schema(columns: dict[str, type]) -> "pa.Schema":
    import pyarrow as pa

    types = {int: pa.int64(), str: pa.string(), bool: pa.bool_(), float: pa.float64()}
    named = {"remark": pa.string(), "activation_vector": pa.list_(pa.float32())}
    if "samples" in columns:
        named["samples"] = pa.list_(pa.struct(list(_schema(SAMPLES))))
    return pa.schema([(name, named.get(name) or types[kind]) for name, kind in columns.items()])
