"""What a file says of itself before its rows are read."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pyarrow as pa

Stopped = Callable[[], bool]
"""Whether what comes is not wanted any more."""


@dataclass(frozen=True)
class Look:
    """The columns of a file; it is closed again, for there may be more files than may be open.

    Attributes:
        schema: Columns that can be read.
        rows: How many rows it has; None where only reading it would tell.
        troubles: Columns that cannot be read as they are, and why: they refuse a run that needs them.
        left_out: What is no column of it, and why.
    """

    schema: pa.Schema
    rows: int | None
    troubles: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
