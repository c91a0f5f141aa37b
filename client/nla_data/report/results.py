"""What a run has written, finished or not, as a stream of its columns. It knows nothing of what they mean."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from nla_data.asking import text_rows
from nla_data.asking.explain import Explain
from nla_data.asking.tasks import Verbalize
from nla_data.asking.totals import Totals
from nla_data.errors import UsageError
from nla_data.reading.files import at_once, reason
from nla_data.report.words import readable
from nla_data.writing.manifest import Manifest
from nla_data.writing.output import read_manifest
from nla_data.writing.parts import read_state
from nla_data.writing.store import Store

REPORTED: Final[dict[str, type[Verbalize | Explain]]] = {task.name: task for task in (Verbalize, Explain)}
"""Tasks whose outputs have explanations with scores."""
_BUFFER: Final = 2**20


@dataclass(frozen=True)
class Results:
    """An output of `nla verbalize` or `nla explain` with scores.

    Attributes:
        store: Where it is.
        manifest: What it says of itself.
        totals: Counts and costs, of what is there so far.
        paths: Its parquet files, in order.
        schema: Their columns.
    """

    store: Store
    manifest: Manifest
    totals: Totals
    paths: list[str]
    schema: pa.Schema

    @classmethod
    def open(cls, out: str) -> "Results":
        """Open an output.

        Raises:
            UsageError: there is none, it has no rows yet, or no scores.
        """
        store = Store(out)
        manifest = read_manifest(store)
        settings = manifest.settings
        if manifest.task not in REPORTED:
            raise UsageError(
                f"{out}: an output of nla {manifest.task}; a report needs one of nla verbalize --score or nla explain"
                " --score"
            )
        if not (settings.get("score") or settings.get("best")):
            raise UsageError(f"{out}: has no scores; run with --score, into another output")
        paths = [store.file] if store.file and store.has_file() else _parts(store, manifest)
        if not paths:
            raise UsageError(f"{out}: no part is written yet; wait for the first")
        return cls(store, manifest, _totals(store, manifest, paths), paths, _schema(store, paths[0]))

    @property
    def vector_column(self) -> str:
        """What the vectors are called that were explained, in the input or the output."""
        return str(self.manifest.settings.get("vector_column", text_rows.VECTOR))

    @property
    def keeps_vectors(self) -> bool:
        """Whether they are in the output; asked for, they may be dropped all the same."""
        asked = self.manifest.settings.get("keep_vectors") or self.manifest.settings.get("vectors")
        return bool(asked) and self.vector_column in self.schema.names

    def batches(self, columns: Sequence[str], rows: int) -> Iterator[Any]:
        """Some columns of all rows in order, as record batches of at most so many rows; types as `readable` makes them.

        Raises:
            UsageError: a file cannot be read.
        """
        for path in self.paths:
            try:
                with self.store.open(path) as opened:
                    # Through a buffer, or a file that is one row group would be in memory whole.
                    file = pq.ParquetFile(opened, buffer_size=_BUFFER, pre_buffer=False)
                    for batch in file.iter_batches(rows, columns=list(columns), use_threads=False):
                        named = dict(zip(batch.schema.names, batch.columns, strict=True))
                        yield pa.record_batch({name: readable(named[name]) for name in columns})
            except (pa.ArrowException, OSError) as error:
                raise UsageError(f"{path}: cannot be read: {reason(error)}") from error


def _parts(store: Store, manifest: Manifest) -> list[str]:
    """Those that are there, in order; Ray's are written in any."""
    return list(store.found_parts().values()) if manifest.settings.get("ray") else store.parts()


def _totals(store: Store, manifest: Manifest, paths: Sequence[str]) -> Totals:
    if manifest.finished:
        return manifest.totals
    if manifest.settings.get("ray"):  # each part counts its own rows
        return sum(at_once(partial(_part_totals, store, manifest), paths), start=Totals())
    return _part_totals(store, manifest, paths[-1])


def _part_totals(store: Store, manifest: Manifest, path: str) -> Totals:
    state = read_state(store, path, manifest.run)
    if state is None:
        raise UsageError(f"{path} is of another run than {store.out} says")
    return state.totals


def _schema(store: Store, path: str) -> pa.Schema:
    store.metadata(path)  # tells what is wrong with a file that is not whole
    with store.open(path) as opened:
        return pq.read_schema(opened)
