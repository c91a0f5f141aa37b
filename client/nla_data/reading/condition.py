"""An SQL condition on rows, each by itself, in DuckDB's dialect. It sees the columns that it names, and no others."""

import json
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nla_data.errors import UsageError
from nla_data.reading.files import reason
from nla_data.reading.types import no_rows


class Condition:
    """Tells which rows are kept.

    Args:
        where: Such as `layer = 20`.
        schema: The columns that there are.
        troubles: Those that cannot be read, and why.

    Attributes:
        columns: Those that it names.

    Raises:
        UsageError: it makes no sense for these columns.
    """

    def __init__(self, where: str, schema: pa.Schema, troubles: Mapping[str, str] = MappingProxyType({})) -> None:
        try:
            import duckdb
        except ImportError:
            raise UsageError("--where needs DuckDB: pip install 'nla-serve[data]'") from None
        self._error = duckdb.Error
        self._db = duckdb.connect(":memory:", config={"threads": 1})
        self._where, self._all = where, schema.names
        # Names that a condition cannot know: it sees the rows of one batch, and must not count or compare them.
        self._rows, self._place = f"rows_{uuid.uuid4().hex}", f"place_{uuid.uuid4().hex}"
        named = self._named([*schema.names, *troubles])
        for name in named:
            if name in troubles:
                raise UsageError(f"--where {where!r}: {troubles[name]}")
        self.columns = named
        folded = Counter(name.casefold() for name in self.columns)
        twice = [name for name in self.columns if folded[name.casefold()] > 1]
        if twice:
            raise UsageError(f"--where cannot tell the columns {', '.join(twice)} apart: SQL knows no case")
        self.keep(no_rows(pa.schema([schema.field(name) for name in self.columns])))

    def keep(self, batch: Any) -> NDArray[np.int64]:
        """Those rows for which the condition is true, in order."""
        seen = [_known(batch.column(name)) for name in self.columns]
        table = pa.table([*seen, pa.array(np.arange(batch.num_rows))], [*self.columns, self._place])
        try:
            self._db.register(self._rows, table)
            query = f"SELECT {self._place} FROM {self._rows} WHERE ({self._where}\n)"  # noqa: S608 - the user's own
            if len(self._db.extract_statements(query)) != 1:
                raise UsageError(f"--where {self._where!r}: must be one condition")
            kept = self._db.sql(query).fetchnumpy()[self._place]
        except (self._error, pa.ArrowException) as error:
            columns = ", ".join(self._all) or "none"
            raise UsageError(f"--where {self._where!r}: {reason(error)} (columns: {columns})") from error
        finally:
            self._db.unregister(self._rows)
        return np.sort(np.asarray(kept, np.int64))

    def _named(self, names: list[str]) -> list[str]:
        """Columns that the condition is about; none where it is no SQL, which DuckDB then says."""
        query = f"SELECT 1 WHERE ({self._where}\n)"
        row = self._db.execute("SELECT json_serialize_sql(?::VARCHAR)", [query]).fetchone()
        found = list(_references(json.loads(row[0] if row else "{}")))
        if None in found:  # a star
            return names
        folded = {name.casefold() for name in found if name}
        return [name for name in names if name.casefold() in folded]


def _references(node: Any) -> Iterator[str | None]:
    """The names in parsed SQL that may be columns, and None for all of them."""
    if isinstance(node, dict):
        if node.get("class") == "STAR":
            yield None
        if node.get("class") == "COLUMN_REF":
            yield from node["column_names"]
        for inner in node.values():
            yield from _references(inner)
    elif isinstance(node, list):
        for inner in node:
            yield from _references(inner)


def _known(column: Any) -> Any:
    """As DuckDB can take it."""
    column = column.storage if isinstance(column, pa.ExtensionArray) else column
    return column.cast(pa.float32()) if pa.types.is_float16(column.type) else column
