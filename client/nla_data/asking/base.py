"""What all tasks have in common: what they need of a server, and how results become columns and counts."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Final, Protocol, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nla_client import Info, Verbalization
from nla_client.calls.base import as_python
from nla_client.results import tables
from nla_client.wire import PairInfo, SamplingRequest, VectorDType
from nla_data.asking.totals import Totals
from nla_data.asking.work import Answers, Call, Done, Work
from nla_data.errors import UsageError
from nla_data.reading.source import Weigh

MAX_ROWS: Final = 64
"""Rows in one request, as in the clients."""
USUAL_MAX_TOKENS: Final[int] = SamplingRequest.model_fields["max_tokens"].default


@dataclass(frozen=True)
class Fields:
    """What tasks that differ in their fields have in common."""

    reads_source: ClassVar[bool] = False
    seeds_by_position: ClassVar[bool] = False
    yields: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        for field in fields(self):  # a number of numpy's is none for JSON, and has few bits
            object.__setattr__(self, field.name, as_python(getattr(self, field.name)))

    def settings(self) -> dict[str, Any]:
        """All of its fields."""
        return asdict(self)

    def bound_to(self, info: Info) -> Self:
        """It depends on the server no further."""
        del info
        return self

    def rows_per_piece(self, info: Info) -> int:
        """As many as the clients send in one request."""
        return min(MAX_ROWS, info.limits.max_batch)

    def weigh(self, info: Info) -> Weigh | None:
        """All rows alike."""
        del info
        return None

    async def plan(self, call: Call, work: Work) -> Work:
        """Nothing is to be asked beforehand."""
        del call
        return work


def dtype_of(engine: PairInfo | None) -> VectorDType:
    """What vectors go as beside an engine."""
    return dtype_for(engine.checkpoint_dtype if engine else None)


def dtype_for(computed_in: str | None) -> VectorDType:
    """The same, by what an engine computes in: float32 where it is that, for bfloat16 would round vectors."""
    return "float32" if computed_in == "float32" else "bfloat16"


def tokens_of(asked: int | None, info: Info) -> int:
    """Most tokens of a sample: as asked, else as many as usual, if the server lets them."""
    return min(USUAL_MAX_TOKENS, info.limits.max_tokens) if asked is None else asked


def need(engine: PairInfo | None, name: str) -> None:
    """Refuse a server without an engine.

    Raises:
        UsageError: naming it.
    """
    if engine is None:
        raise UsageError(f"the server serves no {name} (nla-serve --only?)")


def need_scores(info: Info) -> None:
    """Refuse a server whose scores would make no sense.

    Raises:
        UsageError: naming the reason.
    """
    need(info.reconstructor, "reconstructor")
    if info.reconstructor and info.reconstructor.mse_scale is None:
        raise UsageError("the served reconstructor's sidecar has no mse_scale: its scores would make no sense")


class Sampled(Protocol):
    """What asks for samples."""

    @property
    def n(self) -> int:
        """Samples of each vector."""

    @property
    def max_tokens(self) -> int | None:
        """Most tokens of a sample; None for as many as usual."""

    @property
    def score(self) -> bool:
        """Whether they are scored."""

    @property
    def best(self) -> bool:
        """Whether the best is chosen."""


def check_sampling(task: Sampled, info: Info) -> None:
    """Refuse a server without a verbalizer, to score without a reconstructor, and one whose limits are lower.

    Raises:
        UsageError: naming what is missing.
    """
    need(info.verbalizer, "verbalizer")
    if task.score or task.best:
        need_scores(info)
    for name, asked, limit in (
        ("n", task.n, info.limits.max_n),
        ("max_tokens", task.max_tokens, info.limits.max_tokens),
    ):
        if asked is not None and asked > limit:
            raise UsageError(f"{name} {asked} is over the server's limit of {limit}")


Columns = dict[str, Any]
"""By name, a sequence or an array of a value for each row."""


def columns_of(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> Columns:
    """Some of the values of rows, by name; None where a row has none."""
    return {name: [row.get(name) for row in rows] for name in names}


def explained_columns(rows: Sequence[Verbalization | None]) -> Columns:
    """The chosen sample of each row, all of them, and the spread of their mse."""
    told = [one.row() if one else {} for one in rows]
    columns = columns_of(told, list(tables.VERBALIZATIONS))
    return columns | {"mse_mean": _spread(rows, "mean"), "mse_std": _spread(rows, "std")}


def explained_schema() -> pa.Schema:
    """Types of these columns."""
    return pa.schema([*tables.verbalizations(), ("mse_mean", pa.float64()), ("mse_std", pa.float64())])


def made_by(answers: Answers[Any], settings: dict[str, Any], rows: Sequence[Verbalization | None]) -> Columns:
    """What made the samples of each row: no model, where there are none."""
    return {"model": [answers.model if row else None for row in rows], "settings": [json.dumps(settings)] * len(rows)}


def _spread(rows: Sequence[Verbalization | None], name: str) -> list[float | None]:
    spreads = [told.spread if told else None for told in rows]
    return [getattr(spread, name) if spread else None for spread in spreads]


def done_of(
    columns: Columns, schema: pa.Schema, answers: Answers[Any], origin: NDArray[np.int64] | None = None
) -> Done:
    """Form the new columns, and count.

    Args:
        columns: By name, a value for each row of the output.
        schema: Which of them, and their types.
        answers: For each row of the piece.
        origin: Of which row of the piece each row of the output is, [M]; None where they are the same.
    """
    errors = answers.reasons if origin is None else columns["error"]
    mses, fves = ([value for value in columns.get(name, ()) if value is not None] for name in ("mse", "fve"))
    totals = Totals(
        rows=len(answers.rows),
        more=0 if origin is None else len(origin) - len(answers.rows),
        failed=sum(reason is not None for reason in errors),
        incomplete=sum(complete is False for complete in columns.get("complete", ())),
        scored=len(mses),
        mse=sum(mses),
        explained=len(fves),
        fve=sum(fves),
        sent=answers.sent,
        **answers.usage.model_dump(),
    )
    return Done({field.name: _array(columns[field.name], field.type) for field in schema}, totals, origin)


def _array(values: Any, kind: pa.DataType) -> Any:
    return values if isinstance(values, pa.Array) else pa.array(values, kind)
