"""Outputs of `nla verbalize --score` as a real run writes them, with made-up scores."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nla_data.asking.tasks import Verbalize
from nla_data.asking.totals import Totals
from nla_data.asking.work import Done, Work
from nla_data.reading import files
from nla_data.reading.source import Position, Source
from nla_data.run import Job
from nla_data.writing.manifest import InputFile, Manifest, PartState, Served
from nla_data.writing.output import Output
from nla_data.writing.parts import PartWriter
from nla_data.writing.store import Store

D = 16
BASELINE = 0.9


@dataclass(frozen=True)
class Written:
    """An output, with what it was made of: the kept vectors and cosines of the rows without an error, float64."""

    out: Path
    given: Path
    numbers: np.ndarray
    vectors: np.ndarray
    cosine: np.ndarray
    columns: dict[str, list[Any]]


def made_up(count: int, seed: int = 0) -> tuple[np.ndarray, dict[str, list[Any]]]:
    """Vectors around a common mean, of two layers with different norms; columns that go along."""
    random = np.random.default_rng(seed)
    layer = np.arange(count) % 2
    vectors = (random.standard_normal((count, D)) + 0.7) * np.where(layer, 40.0, 3.0)[:, None]
    tokens = ["the" if k % 3 else "a <b>" for k in range(count)]
    return vectors.astype(np.float32), {"layer": (20 + 5 * layer).tolist(), "token": tokens}


def write(
    out: Path,
    count: int = 300,
    *,
    part_rows: int = 70,
    finish: bool = True,
    baseline: float | None = BASELINE,
    text: str = "a text",
    verbalize: Verbalize | None = None,
    more: dict[str, Any] | None = None,
    given: Path | None = None,
    cosine: Any = None,
    **job: Any,
) -> Written:
    """Every eleventh row has an error: its vector is zero. `more` are more columns of the input.

    `given` is an input that is there already, of an earlier call; `cosine` are the scores.
    """
    vectors, columns = made_up(count)
    vectors[::11] = 0
    if given is None:
        given = out.with_name("given.parquet")
        width = pa.list_(pa.float32(), D)
        table = pa.table(columns | {"activation_vector": pa.array(list(vectors), width)} | (more or {}))
        pq.write_table(table, given, row_group_size=64)
    task = Job(verbalize or Verbalize(score=True), [str(given)], str(out), [], **job)
    source = Source(files.find(task.inputs), task.task.vector_column or "", task.where, task.limit)
    carried = task.carried(source.schema)
    schema = pa.schema([*(source.schema.field(name) for name in carried), *task.task.output(D)])
    inputs = [InputFile.of(file) for file in source.files]
    model = {"model": "fake"}
    served = Served(
        verbalizer=model, reconstructor=model, base_model="base", layer=20, d_model=D, predict_mean_mse=baseline
    )
    manifest = Manifest(task="verbalize", settings=task.settings(), inputs=inputs, served=served)
    store = Store(str(out))
    if cosine is None:
        cosine = np.clip(0.8 + 0.1 * np.random.default_rng(5).standard_normal(count), -1, 1)
    numbers: list[int] = []
    with store.locked():
        output = Output.open(store, manifest)
        writer = PartWriter(store, schema, carried, PartState(run=output.manifest.run), 0)
        for piece in source.pieces(Position(), part_rows):
            work = task.task.prepare(piece, D)
            writer.take(work, _done(work, cosine[piece.numbers], text, task.task.output(D), baseline))
            writer.flush()
            numbers += [int(number) for number, bad in zip(piece.numbers, work.reasons, strict=True) if not bad]
        if finish:
            output.finish(writer.state.totals, schema)
    kept = np.array(numbers, int)
    chosen = {name: [values[k] for k in numbers] for name, values in columns.items()}
    return Written(out, given, kept, vectors[kept].astype(np.float64), cosine[kept], chosen)


def _done(work: Work, cosine: Any, text: str, added: pa.Schema, baseline: float | None) -> Done:
    good = [reason is None for reason in work.reasons]
    norms = iter(np.linalg.norm(work.vectors.astype(np.float64), axis=1).tolist())

    def only_good(values: Any) -> list[Any]:
        return [value if fine else None for value, fine in zip(values, good, strict=True)]

    mse = 2 * (1 - cosine)
    columns: dict[str, list[Any]] = dict.fromkeys(added.names, [None] * len(good))
    columns |= {"explanation": only_good([f"{text} {number}" for number in work.piece.numbers])}
    columns |= {"complete": only_good([bool(number % 5) for number in work.piece.numbers])}
    columns |= {"mse": only_good(mse), "cosine": only_good(cosine)}
    columns |= {"fve": only_good(1 - mse / baseline) if baseline else columns["fve"]}
    columns |= {"mse_mean": only_good(mse + 0.25), "mse_std": only_good(mse * 0 + 0.125)}
    columns |= {"norm": [next(norms) if fine else None for fine in good]}
    columns |= {"input_row": list(work.piece.numbers), "error": work.reasons}
    totals = Totals(rows=len(good), failed=len(good) - sum(good), prompt_tokens=1000, cached_tokens=10)
    return Done({field.name: pa.array(columns[field.name], field.type) for field in added}, totals)
