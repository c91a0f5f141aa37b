"""The columns of all input files together, each with the one type that holds the values of every file.

A file that lacks a column has null there, unless every file must have it.
What cannot be read as it is refuses a run only where that column is needed, and does so before the first row is sent.
It can be pickled, so that workers on other machines need not look again.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from nla_data.errors import UsageError
from nla_data.reading import conversion, hive, readers, types
from nla_data.reading.files import File, reason
from nla_data.reading.look import Look, Stopped


class StoppedReadingError(Exception):
    """What was being read is not wanted any more."""


@dataclass(frozen=True)
class Columns:
    """What the files have.

    Attributes:
        files: In the order in which their rows come.
        vectors: The column of vectors, and the name for a nameless array.
        looks: Of each file what it says of itself.
        keys: Of each file what its folders say.
        schema: Columns that can be read, as they come out.
        troubles: Columns that cannot, and why: whole sentences.
    """

    files: Sequence[File]
    vectors: str
    looks: Sequence[Look]
    keys: Sequence[hive.Keys]
    schema: pa.Schema
    troubles: dict[str, str]

    @classmethod
    def of(cls, files: Sequence[File], vectors: str, needed: Sequence[str], stopped: Stopped) -> "Columns":
        """Look at all files; `needed` are the columns that each of them must have.

        Raises:
            UsageError: one cannot be read.
            StoppedReadingError: `stopped` says so.
        """
        looks = []
        for file in files:
            looks.append(readers.look(file, vectors, stopped))
            if stopped():
                raise StoppedReadingError
        keys = hive.keys(files)
        schema, troubles = _together(_tables(files, looks, keys), vectors, needed)
        return cls(files, vectors, looks, keys, schema, troubles)

    @property
    def rows(self) -> int | None:
        """Rows of all files; None where only reading them would tell."""
        counts = [look.rows for look in self.looks]
        return None if None in counts else sum(count or 0 for count in counts)

    @property
    def names(self) -> list[str]:
        """Of all columns, in order, those that cannot be read last."""
        return [*self.schema.names, *self.troubles]

    def lacking(self, names: Sequence[str]) -> dict[str, list[File]]:
        """By column, the files that have rows, and not this column; none for a column that all have."""
        tables = [(file, frozenset(look.schema.names)) for file, look in _tables(self.files, self.looks, self.keys)]
        found = {name: [file for file, own in tables if name not in own] for name in names}
        return {name: files for name, files in found.items() if files}

    def only(self, index: int) -> "Columns":
        """Of one file alone, as they come out of all."""
        at = slice(index, index + 1)
        return replace(self, files=self.files[at], looks=self.looks[at], keys=self.keys[at])

    def check(self, names: Sequence[str], stopped: Stopped) -> None:
        """Refuse these columns where they cannot be read, or a value would come out as another. It may read them.

        Raises:
            UsageError: naming the file, the column and the reason.
            StoppedReadingError: `stopped` says so.
        """
        for name in names:
            if name in self.troubles:
                raise UsageError(f"{self.troubles[name]}; leave it out with --drop")
        for index, look in enumerate(self.looks):
            if look.rows == 0:  # whatever its types are
                continue
            for name in names:
                if name not in look.schema.names:
                    self._refuse_changed(index, name, self._as_told(index, name))
            doubtful = [name for name in names if name in look.schema.names and not self._is_safe(name, look)]
            if doubtful:
                self._prove(index, doubtful, stopped)

    def batches(self, index: int, start: int, names: Sequence[str]) -> Iterator[Any]:
        """Rows of a file from one on, with these columns, as they come out (pyarrow.RecordBatch).

        Where none is asked for, one comes even so, or a batch would not know how many rows it has.

        Raises:
            UsageError: it cannot be read to its end.
        """
        look = self.looks[index]
        schema = pa.schema([self.schema.field(name) for name in names], self.schema.metadata)
        own = [name for name in names if name in look.schema.names] or look.schema.names[:1]
        for batch in readers.batches(self.files[index], self.vectors, look, start, own):
            rows = pa.array(np.zeros(batch.num_rows, np.int64))
            columns = [
                self._converted(
                    index, name, batch.column(name) if name in own else self._as_told(index, name).take(rows)
                )
                for name in names
            ]
            yield pa.RecordBatch.from_arrays(columns, schema=schema) if names else batch

    def _as_told(self, index: int, name: str) -> Any:
        """What a file's folders say of a column that it has not itself, in one row; null where they say nothing."""
        value = self.keys[index].get(name)
        return pa.array([value], hive.kind(value))

    def _is_safe(self, name: str, look: Look) -> bool:
        return types.is_safe(look.schema.field(name).type, self.schema.field(name).type)

    def _converted(self, index: int, name: str, column: Any) -> Any:
        try:
            return conversion.convert(column, self.schema.field(name).type)
        except pa.ArrowException as error:
            raise UsageError(f"{self.files[index].path}: column {name!r}: {reason(error)}") from error

    def _prove(self, index: int, names: Sequence[str], stopped: Stopped) -> None:
        for batch in readers.batches(self.files[index], self.vectors, self.looks[index], 0, names):
            if stopped():
                raise StoppedReadingError
            for name in names:
                self._refuse_changed(index, name, batch.column(name))

    def _refuse_changed(self, index: int, name: str, column: Any) -> None:
        wanted = self.schema.field(name).type
        why = conversion.changed(column, wanted)
        if why:
            where = f"{self.files[index].path}: column {name!r} is {column.type}, and comes out as {wanted}"
            raise UsageError(f"{where}: {why}; leave it out with --drop")


def _tables(files: Sequence[File], looks: Sequence[Look], keys: Sequence[hive.Keys]) -> list[tuple[File, Look]]:
    """The files that have rows, with what they and their folders say; a file's own column is the one that counts."""
    told = []
    for file, look, said in zip(files, looks, keys, strict=True):
        more = [pa.field(name, hive.kind(value)) for name, value in said.items() if name not in look.schema.names]
        schema = pa.schema([*look.schema, *more], look.schema.metadata)
        told.append((file, replace(look, schema=schema)))
    return [(file, look) for file, look in told if look.rows != 0] or told[:1]


def _together(tables: list[tuple[File, Look]], vectors: str, needed: Sequence[str]) -> tuple[pa.Schema, dict[str, str]]:
    fields, troubles = list[Any](), dict[str, str]()
    for name in dict.fromkeys(name for _, look in tables for name in [*look.schema.names, *look.troubles]):
        why = (_missing(name, tables) if name in needed else None) or _trouble(name, tables)
        if why is None:
            kinds = [(file, look.schema.field(name)) for file, look in tables if name in look.schema.names]
            found = _merged(name, kinds, _as_vectors if name == vectors else types.merge)
            if isinstance(found, str):
                why = found
            else:
                fields.append(kinds[0][1].with_type(found).with_nullable(True))
        if why is not None:
            troubles[name] = why
    return pa.schema(fields, tables[0][1].schema.metadata), troubles


def _missing(name: str, tables: list[tuple[File, Look]]) -> str | None:
    has = {file.path: name in [*look.schema.names, *look.troubles] for file, look in tables}
    if all(has.values()):
        return None
    first, lacks = (next(path for path, there in has.items() if there is wanted) for wanted in (True, False))
    return f"{lacks}: has no column {name!r}, which {first} has"


def _trouble(name: str, tables: list[tuple[File, Look]]) -> str | None:
    """Why it cannot be read in one of the files; what is left out of one is no column of it, but stands there."""
    found = ((file, (look.left_out | look.troubles).get(name)) for file, look in tables)
    return next((f"{file.path}: column {name!r} {why}" for file, why in found if why), None)


def _merged(
    name: str, fields: list[tuple[File, Any]], merge: Callable[[list[pa.DataType]], pa.DataType]
) -> pa.DataType | str:
    kinds = [field.type for _, field in fields]
    try:
        return merge(list(dict.fromkeys(kinds)))
    except types.DifferentTypesError:
        first, kind = fields[0][0], kinds[0]
    for file, field in fields:
        try:
            merge([kind, field.type])
        except types.DifferentTypesError:
            return f"{file.path}: column {name!r} is {field.type}, in {first.path} {kind}"
    return f"{first.path}: column {name!r} is {kind}, and has other types in other files"


def _as_vectors(kinds: list[pa.DataType]) -> pa.DataType:
    """As `merge`; but uint16 are the bits of bfloat16, and no numbers."""
    bits = {pa.types.is_nested(kind) and getattr(kind, "value_type", None) == pa.uint16() for kind in kinds}
    if len(bits) > 1:
        raise types.DifferentTypesError("uint16 are the bits of bfloat16")
    return types.merge(kinds)
