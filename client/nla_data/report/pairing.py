"""Which rows of two outputs are the same row: by their number in the input, or by doc_id and position.

Runs over other inputs are refused, unless the rows' vectors are the same.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nla_data.errors import UsageError
from nla_data.report import originals, sample
from nla_data.report.originals import UnavailableError
from nla_data.report.results import Results
from nla_data.report.rows import Rows

ROW: Final = ("input_row",)
PLACE: Final = ("doc_id", "position")
ROW_AND_PLACE: Final = ("input_row", "position")
_BATCH_ROWS: Final = 16_384
_SAME: Final = 1e-9
"""Between norms, in parts of them: they are noted in float64, of the same numbers, summed in any order."""
_READ_AGAIN: Final = {"float32": 1e-4}
"""The same, and between vectors, where a source model was read again, by what it computes in; its rounding depends on
which texts it reads together."""
_ROUNDED: Final = 2.0**-6
"""The same of a source that computes in fewer bits."""

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Run:
    """An output with its scored rows."""

    results: Results
    rows: Rows

    @property
    def out(self) -> str:
        """Where it is."""
        return self.results.store.out


@dataclass(frozen=True)
class Pairing:
    """Pairs of scored rows, in the order of the first run.

    Attributes:
        first: Which of the first run's scored rows [P].
        second: Their partners, of the second's [P].
        by: The columns whose values are the same.
        same_inputs: Whether both runs read the same files; else the vectors were compared.
    """

    first: Indices
    second: Indices
    by: tuple[str, ...]
    same_inputs: bool


def pair(first: Run, second: Run) -> Pairing:
    """Find the pairs.

    Raises:
        UsageError: rows cannot be told apart, none is in both, or they are not the same vectors.
    """
    if not (len(first.rows) and len(second.rows)):
        raise UsageError(f"{first.out} and {second.out}: no row has a score in both")
    other = _other_inputs(first, second)
    rows = (ROW_AND_PLACE, ROW) if _sources(first, second) else (ROW, ROW_AND_PLACE)
    by, keys = _keys(first, second, (PLACE, *rows) if other else (*rows, PLACE))
    _, mine, theirs = np.intersect1d(*keys, assume_unique=True, return_indices=True)
    if not len(mine):
        raise UsageError(f"{first.out} and {second.out}: no row has a score in both, by {' and '.join(by)}")
    order = np.argsort(mine)
    found = Pairing(mine[order], theirs[order], by, same_inputs=other is None)
    _check_norms(first, second, found, other)
    if other:
        _check_vectors(first, second, found, other)
    return found


def _other_inputs(first: Run, second: Run) -> str | None:
    """What the runs were over, by name, where it is not the same."""
    mine, theirs = first.results.manifest, second.results.manifest
    columns = [it.settings.get("vector_column") or it.settings["text_column"] for it in (mine, theirs)]
    if columns[0] != columns[1]:
        return f"columns {columns[0]!r} and {columns[1]!r}"
    sources = [it.served.source for it in (mine, theirs)]
    if sources[0] and sources[1] and sources[0] != sources[1]:
        return f"sources {sources[0]['model']} and {sources[1]['model']}"
    if mine.inputs == theirs.inputs:
        return None
    for one, other in zip(mine.inputs, theirs.inputs, strict=False):
        if one.path != other.path:
            return f"inputs {one.path} and {other.path}"
        if one != other:
            return f"inputs: {one.path} has changed between them"
    return f"inputs: {len(mine.inputs)} and {len(theirs.inputs)} files"


def _refusal(first: Run, second: Run, other: str | None, why: str) -> UsageError:
    over = f"they are of different {other}, and " if other else ""
    return UsageError(f"{first.out} and {second.out} are not two runs of the same rows: {over}{why}")


def _check_norms(first: Run, second: Run, found: Pairing, other: str | None) -> None:
    mine, theirs = first.rows.norm[found.first], second.rows.norm[found.second]
    differ = np.flatnonzero(~np.isclose(mine, theirs, rtol=_tolerance(first, second, otherwise=_SAME), atol=0))
    if len(differ):
        row = first.rows.input_row[found.first[differ[0]]]
        raise _refusal(first, second, other, f"{len(differ):,} of {len(mine):,} vectors differ, such as row {row}")


def _check_vectors(first: Run, second: Run, found: Pairing, other: str) -> None:
    """Equal norms may be those of vectors that were scaled; so some are compared whole."""
    chosen = sample.choose(len(found.first))
    try:
        mine, theirs = _vectors(first, found.first[chosen]), _vectors(second, found.second[chosen])
    except UnavailableError as error:
        why = f"whether their vectors are the same cannot be seen ({str(error).rstrip('.')})"
        raise _refusal(first, second, other, why) from error
    if mine.shape == theirs.shape:
        differences, lengths = np.linalg.norm(mine - theirs, axis=1), np.linalg.norm(mine, axis=1)
        if (differences <= _tolerance(first, second, otherwise=0.0) * lengths).all():
            return
    raise _refusal(first, second, other, "their vectors differ")


def _sources(*runs: Run) -> list[dict[str, Any]]:
    """The source models that the runs have read themselves."""
    return [run.results.manifest.served.source for run in runs if run.results.manifest.served.source]


def _tolerance(*runs: Run, otherwise: float) -> float:
    """By what their sources compute in; `otherwise` where none was read."""
    kinds = [str(source.get("checkpoint_dtype")) for source in _sources(*runs)]
    return max((_READ_AGAIN.get(kind, _ROUNDED) for kind in kinds), default=otherwise)


def _vectors(run: Run, chosen: Indices) -> NDArray[np.float32]:
    kept = sample.Kept(originals.pieces(run.results, run.rows), chosen)
    for _ in kept():
        pass
    return kept.vectors


def _keys(first: Run, second: Run, kinds: Sequence[tuple[str, ...]]) -> tuple[tuple[str, ...], tuple[Indices, Indices]]:
    """The first kind of key that both have and that no two rows of one share, and the rows' keys as numbers."""
    for names in kinds:
        if all(_has(run, name) for run in (first, second) for name in names):
            keys = _numbered(first, second, names)
            if keys and all(len(np.unique(it)) == len(it) for it in keys):
                return names, keys
    raise UsageError(
        f"{first.out} and {second.out}: rows share their numbers, and have no doc_id and position that tell them apart"
    )


def _has(run: Run, name: str) -> bool:
    schema = run.results.schema
    return name in schema.names and not pa.types.is_nested(schema.field(name).type)


def _numbered(first: Run, second: Run, names: Sequence[str]) -> tuple[Indices, Indices] | None:
    """For each scored row one number, the same where all columns are; None where a value is missing."""
    parts = [list(_columns(run, names)) for run in (first, second)]
    count, codes = len(first.rows), np.zeros(len(first.rows) + len(second.rows), np.int64)
    for place in range(len(names)):
        chunks = [batch[place] for batches in parts for batch in batches]
        if len({chunk.type for chunk in chunks}) > 1:
            chunks = [chunk.cast(pa.string()) for chunk in chunks]
        encoded = pa.chunked_array(chunks).dictionary_encode()
        if encoded.null_count:
            return None
        own = np.concatenate([chunk.indices.to_numpy(zero_copy_only=False) for chunk in encoded.chunks])
        # Numbered anew each time, so that no product grows beyond the rows' number squared.
        _, codes = np.unique(codes * (own.max(initial=0) + 1) + own, return_inverse=True)
    return codes[:count], codes[count:]


def _columns(run: Run, names: Sequence[str]) -> Iterator[list[Any]]:
    """Of the scored rows, batch by batch; one batch at least."""
    begin, places = 0, run.rows.place
    for batch in run.results.batches(names, _BATCH_ROWS):
        low, high = np.searchsorted(places, (begin, begin + batch.num_rows))
        yield [batch.column(name).take(pa.array(places[low:high] - begin)) for name in names]
        begin += batch.num_rows
