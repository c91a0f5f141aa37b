"""A look at the first rows before anything is sent: what is wrong with all of them is wrong with the run."""

from typing import Final

from nla_client import Info
from nla_client.layers import check_layer
from nla_data.asking import origin
from nla_data.errors import UsageError
from nla_data.reading import vectors
from nla_data.reading.source import Position, Source

FIRST_ROWS: Final = 256
MOST_ROWS: Final = 100_000
"""How far to look for them where a condition keeps few."""


def of_source(info: Info) -> list[str]:
    """What the server itself finds strange about its source model."""
    return [info.source.warning] if info.source and info.source.warning else []


def first_rows(source: Source, column: str | None, info: Info) -> list[str]:
    """Look at the vectors of the first rows; returns warnings where they do not look like the pair's layer.

    Raises:
        UsageError: float16 that has overflowed, or no vector that can be used.
    """
    if column is None:
        return []
    piece = next(source.pieces(Position(), FIRST_ROWS, MOST_ROWS), None)
    if piece is None:
        return []
    checked = vectors.read(piece.table.column(column), info.d_model)
    bad = [reason for reason in checked.reasons if reason]
    overflown = sum(vectors.FLOAT16_ADVICE in reason for reason in bad)
    count = len(checked.reasons)
    if overflown:
        raise UsageError(
            f"column {column!r}: {overflown} of the first {count} vectors have overflown, and the others are no fair "
            f"sample; {vectors.FLOAT16_ADVICE} (of Gemma 3 12B's, 64 % overflow), or leave them out with --where"
        )
    if len(bad) == count:
        raise UsageError(f"column {column!r}: none of the first {count} rows can be used; the first: {bad[0]}")
    said = [*origin.of_files(source.files, info), origin.of_rows(piece.table, info)]
    return [warning for warning in (*said, check_layer(checked.vectors, info)) if warning]
