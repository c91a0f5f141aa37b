"""What `nla info` and `nla try` print."""

from dataclasses import dataclass
from importlib.resources import files as resources
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from nla_client import Info, NLAClient, Verbalization
from nla_client.layers import check_layer
from nla_data.errors import UsageError


def info(url: str, api_key: str | None, model: str | None) -> None:
    """Print what a server serves of a pair, whether that is ready, and which other pairs there are."""
    with NLAClient(url, api_key=api_key, model=model) as nla:
        served, ready = nla.info(), nla.ready()
        names = [one.id for one in nla.models()] if served.name else []
    table = Table(title=url, show_header=False)
    rows: dict[str, Any] = {"pair": served.name}
    if len(names) > 1:
        rows["all pairs (--model)"] = ", ".join(names)
    rows["ready"] = "yes" if ready else "not yet"
    parts = {"verbalizer": served.verbalizer, "reconstructor": served.reconstructor, "source": served.source}
    for role, part in parts.items():
        rows[role] = f"{part.model} ({part.checkpoint_dtype})" if part else "not served"
        if part and part.revision:
            rows[f"{role}'s commit on the hub"] = part.revision
        if part and part.fingerprint:
            rows[f"{role}'s fingerprint"] = part.fingerprint[:16]
    layer = "not known" if served.layer is None else f"output of block {served.layer}"
    rows |= {"base model": served.base_model, "layer": layer, "d_model": served.d_model}
    rows["injection_scale"] = served.verbalizer and served.verbalizer.injection_scale
    rows["mse_scale"] = served.reconstructor and served.reconstructor.mse_scale
    rows["predict_mean_mse"] = served.predict_mean_mse
    if served.source:
        rows["tokens of a text, at most"] = served.source.context
    rows |= {f"limit: {name}": value for name, value in served.limits}
    rows |= {f"version: {name}": value for name, value in served.versions.items()}
    for name, value in rows.items():
        table.add_row(name, "none" if value is None else escape(str(value)))
    console = Console()
    console.print(table)
    _warn(console, served.source.warning if served.source else None)
    for engine in served.engines:
        _warn(console, engine.warning)


@dataclass(frozen=True)
class Place:
    """Where a vector is: a row of a file, or of the demo pair's vectors."""

    file: str | None
    row: int
    column: str


def one(url: str, api_key: str | None, model: str | None, place: Place, sampling: dict[str, Any]) -> None:
    """Print the explanations of one vector, best first, with their scores where the server can score."""
    with NLAClient(url, api_key=api_key, model=model) as nla:
        served = nla.info()
        vector, read = _demo_vector(place.row, served) if place.file is None else (_vector(place, served), None)
        told = nla.verbalize(vector, score=served.reconstructor is not None, **sampling)
    console = Console()
    _warn(console, check_layer([vector], served))
    console.print(
        _explanations(told, f"{place.file or 'demo pair'}, row {place.row}, norm {np.linalg.norm(vector):.4g}")
    )
    if read:
        console.print(f"read at the end of: {read}", markup=False, highlight=False)


def _warn(console: Console, warning: str | None) -> None:
    if warning:
        console.print(f"warning: {warning}", markup=False, highlight=False)


def _explanations(told: Verbalization, title: str) -> Table:
    table = Table(title=escape(title), show_lines=len(told.samples) > 1)
    for name in ("explanation", "mse", "cosine", "fve"):
        table.add_column(name, overflow="fold")
    for sample in sorted(told.samples, key=lambda it: it.score.mse if it.score else 0.0):
        text = sample.text if sample.complete else f"{sample.text} [incomplete]"
        numbers = (sample.score.mse, sample.score.cosine, sample.score.fve) if sample.score else (None,) * 3
        table.add_row(escape(text), *("" if number is None else f"{number:.4f}" for number in numbers))
    return table


def _demo_vector(row: int, served: Info) -> tuple[NDArray[np.float32], str]:
    with (resources("nla_launch") / "demo" / "vectors.npz").open("rb") as stream:
        held_out = np.load(stream)
        given, contexts = held_out["vectors"], held_out["contexts"]
    if served.d_model != given.shape[1]:
        raise UsageError(f"the demo pair's vectors have {given.shape[1]} elements, not {served.d_model}: give a FILE")
    if row >= len(given):
        raise UsageError(f"the demo pair has {len(given)} vectors: no row {row}")
    vector: NDArray[np.float32] = given[row]
    return vector, str(contexts[row])


def _vector(place: Place, served: Info) -> NDArray[np.float32]:
    from nla_data.reading import files, vectors
    from nla_data.reading.source import Position, Source

    file, row, column = str(place.file), place.row, place.column
    source = Source(files.find([file]), column)
    if column not in source.columns.names:
        raise UsageError(f"{file} has no column {column!r}; it has {', '.join(source.columns.names)}")
    source.use([column])
    vectors.check_type(source.schema.field(column).type, column)
    piece = next((piece for piece in source.pieces(Position(), 1) if piece.numbers[0] == row), None)
    if piece is None:
        raise UsageError(f"{file} has no row {row}")
    checked = vectors.read(piece.table.column(column), served.d_model)
    if checked.reasons[0]:
        raise UsageError(f"{file}, row {row}: {checked.reasons[0]}")
    vector: NDArray[np.float32] = checked.vectors[0]
    return vector
