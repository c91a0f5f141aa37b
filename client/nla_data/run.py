"""One run: from the files, the settings and the gateways to a finished output, begun anew or gone on with."""

import io
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from nla_client import Info
from nla_client.calls.base import as_python
from nla_data.asking import checks
from nla_data.asking.explain import Explain
from nla_data.asking.extract import Extract
from nla_data.asking.source_task import SourceTask
from nla_data.asking.tasks import Task
from nla_data.asking.totals import Totals
from nla_data.cluster import run as cluster
from nla_data.cluster.chunks import Order
from nla_data.cluster.workers import Servers
from nla_data.errors import UsageError
from nla_data.given import as_found_again, as_list
from nla_data.reading import files, texts, vectors
from nla_data.reading.files import SIDECAR_ENDING, reason
from nla_data.reading.source import Source
from nla_data.reading.types import is_text
from nla_data.running import blocking
from nla_data.running.gateways import PATIENCE_S, Gateways
from nla_data.running.pipeline import Pipeline
from nla_data.running.progress import Mode, Reporter, reporter
from nla_data.writing import sidecar
from nla_data.writing.manifest import InputFile, Manifest, PartState, Served
from nla_data.writing.output import Output
from nla_data.writing.parts import PartWriter
from nla_data.writing.store import Store

TASK_KEY: Final = b"nla_task"
"""Where an output's metadata name what made it."""
_TOLD_AGAIN: Final = frozenset({"norm", "error"})
"""Columns of `nla extract` that make way for those of the same name and meaning."""
LEFT_OPEN: Final = ("seed", "dtype", "max_tokens")
"""Settings that, where none are asked for, are those of the output that is there."""
MANY_POSITIONS: Final = 64
"""As many as a text is taken to have, roughly, where that is not known beforehand."""
NAMELESS: Final = "activation_vector"
"""What the one array of a .npy file is called."""


@dataclass(frozen=True)
class Job:
    """What is to be done.

    One path, URL or column may stand alone, without a list; paths may be `Path`s, and numbers numpy's.

    Attributes:
        task: With the rows.
        inputs: Paths, folders, globs or URIs.
        out: A folder, or a file that ends in .parquet; None for a run of which only the totals count.
        urls: Gateways that serve the same models.
        api_key: As for the clients.
        model: Name of their pair, where they have several; None for their first.
        where: An SQL condition on the rows.
        limit: At most so many rows.
        drop: Columns that do not go along.
        keep_vectors: Whether the vectors go along.
        patience: Seconds without any answer, beyond those that a limit tells to wait, after which the run gives up.
        progress: How progress is told.
        ray: Whether Ray does it, on many machines.
        ray_address: Of the Ray cluster; None for the one that Ray finds, or one of this machine's own.
    """

    task: Task
    inputs: Sequence[str]
    out: str | None
    urls: Sequence[str]
    api_key: str | None = None
    model: str | None = None
    where: str | None = None
    limit: int | None = None
    drop: Sequence[str] = ()
    keep_vectors: bool = False
    patience: float = PATIENCE_S
    progress: Mode = "quiet"
    ray: bool = False
    ray_address: str | None = None

    def __post_init__(self) -> None:
        plain = {
            "inputs": as_list(self.inputs),
            "out": None if self.out is None else os.fspath(self.out),
            "urls": as_list(self.urls),
            "drop": as_list(self.drop),
        }
        numbers = {name: as_python(getattr(self, name)) for name in ("limit", "keep_vectors", "patience", "ray")}
        for name, value in (plain | numbers).items():
            object.__setattr__(self, name, value)

    @property
    def servers(self) -> Servers:
        """The gateways that do it."""
        return Servers(self.urls, self.api_key, self.patience, self.task.reads_source, self.model)

    def bound_to(self, info: Info) -> "Job":
        """The same job, with what its task takes from the server."""
        return replace(self, task=self.task.bound_to(info))

    def settings(self) -> dict[str, object]:
        """What the output depends on, beside the rows and the models."""
        own: dict[str, object] = {
            "where": self.where,
            "limit": self.limit,
            "drop": sorted(self.drop),
            "keep_vectors": self.keep_vectors,
        }
        if self.ray and isinstance(self.task, Explain):  # parts that are there were counted by it
            own["context"] = self.task.context
        # Ray's parts are cut in another way, so that neither can go on with the other's.
        return self.task.settings() | own | {"ray": self._chunk_rows if self.ray else None}

    @property
    def _chunk_rows(self) -> int:
        """Fewer where each makes several rows of a part."""
        each = self.task.choice.count or MANY_POSITIONS if isinstance(self.task, SourceTask) else 1
        return max(1, cluster.CHUNK_ROWS // each)

    def check_ray(self) -> None:
        """Refuse what Ray's workers, who do rows in any order, cannot do.

        Raises:
            UsageError: it has to count rows as they come, or has no output.
        """
        if self.ray and self.where and self.limit is not None:
            raise UsageError("--ray cannot count the rows that --where keeps: leave out --limit, or --ray")
        if self.ray_address and not self.ray:
            raise UsageError("--ray-address needs --ray")
        if self.ray and self.out is None:
            raise UsageError("--ray needs an output")

    def carried(self, schema: pa.Schema, troubles: Mapping[str, str] = MappingProxyType({})) -> list[str]:
        """The input's columns that go along; `troubles` are those that cannot be read.

        Raises:
            UsageError: a column that is asked for is not there, or holds something else.
        """
        names = [*schema.names, *troubles]
        for name in (*self.drop, *self.used):
            if name not in names:
                raise UsageError(f"the input has no column {name!r}; it has {', '.join(names)}")
        for name in self.used:
            if name in troubles:
                raise UsageError(troubles[name])
        if self.task.vector_column:
            vectors.check_type(schema.field(self.task.vector_column).type, self.task.vector_column)
        if self.task.text_column:
            field = schema.field(self.task.text_column)
            (_check_source if self.task.reads_source else _check_texts)(field)
        left_out = {*self.drop, None if self.keep_vectors else self.task.vector_column}
        left_out |= {self.task.text_column} if self.task.reads_source else set()
        if (schema.metadata or {}).get(TASK_KEY) == Extract.name.encode():
            left_out |= _TOLD_AGAIN.intersection(self.task.output(1).names)
        return [name for name in names if name not in left_out]

    @property
    def used(self) -> list[str]:
        """The columns that the task reads."""
        return [name for name in (self.task.vector_column, self.task.text_column) if name]


@dataclass(frozen=True)
class Outcome:
    """How a run ended: totals over all rows, those of earlier runs of the same job too, and where they are."""

    totals: Totals
    out: str | None
    was_finished: bool = False


async def run(job: Job, shown: Reporter | None = None) -> Outcome:
    """Do a job, or what is left of it.

    Raises:
        UsageError: the input, the output, the settings or the server are not what they should be.
        StoppedError: it cannot go on now; the same job goes on from there.
    """
    job.check_ray()
    shown = shown or reporter(job.progress)
    store = await blocking.to_end(lambda _: Store(job.out) if job.out else None)
    source, carried = await blocking.to_end(partial(_open, job, store, shown.warn))
    lock = blocking.held(store.locked if store else lambda _: nullcontext())
    async with lock as storage, Gateways(**asdict(job.servers)) as gateways:
        info = await gateways.connect()
        left_open = [name for name in LEFT_OPEN if getattr(job.task, name, 0) is None]
        job = job.bound_to(info)
        job.task.check(info)
        schema = _schema(source, carried, job.task, info)
        await _warn(source, job.task, info, shown)
        work = _Pass(source, gateways, info, schema, carried, storage, shown)
        if store:
            return await _into(store, job, work, left_open)
        return Outcome(await work.run(job.task, None, PartState(run=""), 0), None)


def _open(
    job: Job, store: Store | None, warn: Callable[[str], None], stopped: threading.Event
) -> tuple[Source, list[str]]:
    """Find the inputs, look at all of them, and refuse what would not come out as it is."""
    inputs = files.find(job.inputs, store.paths() if store else (), warn)
    column = job.task.vector_column or NAMELESS
    source = Source(inputs, column, job.where, job.limit, needed=job.used, stopped=stopped)
    carried = job.carried(source.schema, source.columns.troubles)
    source.use([*carried, *job.used])
    for warning in source.warnings:
        warn(warning)
    return source, carried


async def _warn(source: Source, task: Task, info: Info, shown: Reporter) -> None:
    warnings = await blocking.to_end(lambda _: checks.first_rows(source, task.vector_column, info), source.stopped)
    for warning in [*warnings, *(checks.of_source(info) if task.reads_source else [])]:
        shown.warn(warning)


async def _into(store: Store, job: Job, work: "_Pass", left_open: Sequence[str]) -> Outcome:
    inputs = [InputFile.of(file) for file in work.source.files]
    wanted = Manifest(
        task=job.task.name,
        settings=job.settings(),
        inputs=inputs,
        given=[as_found_again(path) for path in job.inputs],
        served=Served.of(work.info, source=job.task.reads_source),
    )
    storage = work.storage
    output = await storage.do(lambda: Output.open(store, wanted, left_open))
    if output.manifest.finished:
        return Outcome(output.manifest.totals, job.out, was_finished=True)
    task: Task = replace(job.task, **{name: output.manifest.settings[name] for name in left_open})  # type: ignore[type-var]
    task.check(work.info)
    if job.ray:
        order = Order.of(output, work.source, task, carried=work.carried, schema=work.schema)
        ray = cluster.Cluster(job.ray_address, job.servers)
        left = await storage.do(lambda: cluster.left(order, output, job.limit))
        totals = cluster.run(ray, order, left, work.shown)
    else:
        totals = await work.run(task, store, output.state, output.index)
    if isinstance(task, Extract | Explain) and task.vectors:
        await storage.do(lambda: store.write_beside(SIDECAR_ENDING, _sidecar(work, task, totals)))
    await storage.do(lambda: output.finish(totals, work.schema, storage.stopped.is_set))
    return Outcome(totals, job.out)


@dataclass(frozen=True)
class _Pass:
    """All that one pass over the rows needs, whatever the output."""

    source: Source
    gateways: Gateways
    info: Info
    schema: pa.Schema
    carried: list[str]
    storage: blocking.Worker
    shown: Reporter

    async def run(self, task: Task, store: Store | None, state: PartState, index: int) -> Totals:
        writer = PartWriter(store, self.schema, self.carried, state, index)
        self.shown.start(self.source.total(), state.totals)
        pieces = self.source.pieces(state.end, task.rows_per_piece(self.info), weigh=task.weigh(self.info))

        def tell() -> None:
            self.shown.update(writer.state.totals, writer.rate)

        pipeline = Pipeline(task, self.gateways, writer, self.storage, tell)
        try:
            await pipeline.run(pieces, self.info.d_model, self.source.stopped)
        finally:
            self.shown.close()
        return writer.state.totals


def _sidecar(work: _Pass, task: Extract | Explain, totals: Totals) -> bytes:
    asked = {"positions": task.positions, "seed": task.seed, "vectors": task.vectors}
    asked |= {"positions_per_doc": task.choice.count}
    paths = [file.path for file in work.source.files]
    return sidecar.content(work.info, paths, f"nla {task.name}", asked, (totals.rows, totals.written))


def _schema(source: Source, carried: Sequence[str], task: Task, info: Info) -> pa.Schema:
    given = task.yields.intersection(carried)
    added = [field for field in task.output(info.d_model) if field.name not in given]
    both = [field.name for field in added if field.name in carried]
    if both:
        raise UsageError(f"the input has columns {', '.join(both)} already; leave them out with --drop, or rename them")
    metadata = {TASK_KEY: task.name.encode()} if task.reads_source else None
    schema = pa.schema([*(source.schema.field(name) for name in carried), *added], metadata)
    for field in schema:
        _check_writable(field, source.files[0].path)
    return schema


def _check_writable(field: pa.Field, path: str) -> None:
    written = io.BytesIO()
    try:
        pq.write_table(pa.table([pa.nulls(1, field.type)], schema=pa.schema([field])), written)
        pq.ParquetFile(written).read()  # some of what pyarrow writes it cannot read
    except (pa.ArrowException, OSError) as error:
        why = f"column {field.name!r} cannot go along: {reason(error)}; leave it out with --drop"
        raise UsageError(f"{path}: {why}") from error


def _check_source(field: pa.Field) -> None:
    texts.form_of(field.type, field.name)


def _check_texts(field: pa.Field) -> None:
    if not is_text(field.type):
        raise UsageError(f"column {field.name!r} holds {field.type}, not texts")
