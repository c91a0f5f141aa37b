"""The vectors that were explained, read again: from the output where it kept them, or from the run's inputs."""

from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from nla_data.asking.explain import Explain
from nla_data.errors import UsageError
from nla_data.reading import files, vectors
from nla_data.reading.source import Position, Source
from nla_data.report.results import Results
from nla_data.report.rows import Rows
from nla_data.writing.manifest import InputFile

_BYTES: Final = 16 * 2**20
"""About what one piece takes in float64."""
_NORM_TOLERANCE: Final = {"float32": 1e-5, "bfloat16": 2.0**-8}
"""Between a vector's norm and the one that was noted, in parts of it, by what it was kept as."""

Vectors = NDArray[np.float64]
Pieces = Callable[[], Iterator[tuple[slice, Vectors]]]
"""Goes over all vectors once for each call: which scored rows, and their vectors [n, d]."""

_Numbered = tuple[NDArray[np.int64], Any]
"""Numbers of rows of the output or of the input, in order, and their column of vectors."""


class UnavailableError(Exception):
    """The vectors are no longer there; its text is the sentence that says why."""


def pieces(results: Results, rows: Rows) -> Pieces:
    """How to go over the vectors of the scored rows.

    Raises:
        UnavailableError: neither the output nor the inputs have them, as far as can be seen beforehand.
    """
    size = max(1, _BYTES // (8 * results.manifest.served.d_model))
    if results.keeps_vectors:
        return lambda: _checked(_from_output(results, size), rows.place, results, rows)
    if results.manifest.task == Explain.name:
        raise UnavailableError("The run has kept no vectors: nla explain writes them with --keep-vectors.")
    source = _source(results)
    return lambda: _checked(_from_inputs(source, results.vector_column, size), rows.input_row, results, rows)


def _source(results: Results) -> Source:
    settings = results.manifest.settings
    try:
        found = _inputs(results)
        if [InputFile.of(file) for file in found] != results.manifest.inputs:
            raise UnavailableError(
                "The input files have changed since the run (another size or time, or some are gone)."
            )
        source = Source(found, results.vector_column, settings.get("where"), settings.get("limit"))
        source.use([results.vector_column])
    except UsageError as error:
        raise UnavailableError(f"The input files cannot be read here: {error}.") from error
    return source


def _inputs(results: Results) -> list[files.File]:
    """The run's input files, on the storage where they were found."""
    manifest = results.manifest
    there = files.find(manifest.given or [file.path for file in manifest.inputs], results.store.paths())
    by_path = {file.path: file for file in there}
    return [by_path[file.path] for file in manifest.inputs if file.path in by_path]


def _from_output(results: Results, size: int) -> Iterator[_Numbered]:
    begin = 0
    for batch in results.batches([results.vector_column], size):
        yield np.arange(begin, begin + batch.num_rows), batch.column(0)
        begin += batch.num_rows


def _from_inputs(source: Source, name: str, size: int) -> Iterator[_Numbered]:
    return ((piece.numbers, piece.table.column(name)) for piece in source.pieces(Position(), size))


def _checked(
    found: Iterator[_Numbered], wanted: NDArray[np.int64], results: Results, rows: Rows
) -> Iterator[tuple[slice, Vectors]]:
    """Those of the scored rows, whose numbers are wanted, in order; each must have the norm that the run noted."""
    kept_as = results.manifest.settings.get("vectors") or "float32"
    done = 0
    try:
        for numbers, column in found:
            stop = done + int(np.isin(wanted[done : done + len(numbers)], numbers).sum())
            if stop > done:
                taken = slice(done, stop)
                vectors_there = _taken(column, np.isin(numbers, wanted[taken]), results.manifest.served.d_model)
                _check_norms(vectors_there, rows.norm[taken], _NORM_TOLERANCE[kept_as])
                yield taken, vectors_there
            done = stop
            if done == len(rows):
                return
    except UsageError as error:
        raise UnavailableError(f"The vectors cannot be read again: {error}.") from error
    raise UnavailableError("The vectors cannot be read again: the inputs have fewer rows than the run has explained.")


def _taken(column: Any, wanted: NDArray[np.bool_], d_model: int) -> Vectors:
    checked = vectors.read(column, d_model)
    good = np.array([reason is None for reason in checked.reasons], bool)
    return np.asarray(checked.vectors[wanted[good]].astype(np.float64))


def _check_norms(found: Vectors, norms: NDArray[np.float64], tolerance: float) -> None:
    if len(found) != len(norms) or not np.allclose(np.linalg.norm(found, axis=1), norms, rtol=tolerance, atol=0):
        raise UnavailableError("The vectors that are there now are not those that were explained: their norms differ.")
