"""What the folders of a hive layout say of their files: `layer=20/doc=3/x.parquet` has the columns layer and doc."""

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds

from nla_data.reading.files import File

Keys = dict[str, Any]
"""By column, the value that all rows of a file have."""


def keys(files: Sequence[File]) -> list[Keys]:
    """Of each file, what the folders right above it say. Values of a column are integers where all of them are."""
    found = [_texts(file.path) for file in files]
    names = {name for one in found for name in one}
    whole = {name for name in names if all(_is_whole(one.get(name)) for one in found)}
    return [{name: int(text) if text and name in whole else text for name, text in one.items()} for one in found]


def kind(value: Any) -> pa.DataType:
    """The type of such a column."""
    return pa.null() if value is None else pa.int64() if isinstance(value, int) else pa.string()


def _texts(path: str) -> dict[str, str | None]:
    above = reversed(PurePosixPath(path).parts[:-1])
    names: list[str] = []
    for part in above:
        name, is_key, _ = part.partition("=")
        if not (is_key and name):
            break
        names.append(name)
    if not names:
        return {}
    own = "/".join(PurePosixPath(path).parts[-len(names) - 1 :])
    said = ds.get_partition_keys(_partitioning(names).parse(own))
    return {name: said.get(name) for name in reversed(names)}


def _partitioning(names: Sequence[str]) -> Any:
    return ds.HivePartitioning(pa.schema([(name, pa.string()) for name in names]))


def _is_whole(text: str | None) -> bool:
    """Whether an integer says the same: `007` is a text."""
    try:
        return text is None or (str(int(text)) == text and abs(int(text)) < 2**63)
    except ValueError:
        return False
