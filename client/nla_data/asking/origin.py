"""What a data set says of where its vectors are from, beside a file or in a column, compared with the served pair."""

from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import yaml
from pyarrow import fs

from nla_client import Info
from nla_data.reading.files import SIDECAR_ENDING, File, at_once, reason

LAYER: Final = "activation_layer"
"""Column, or key of a sidecar."""
_LAYERS: Final = (LAYER, "layer_index", "extraction_layer_index", "layer")
_MODELS: Final = ("base_model", "base_checkpoint", "model")
_MOST_FILES: Final = 256
"""Of a large data set the first ones tell enough."""


def of_files(files: Sequence[File], info: Info) -> Iterator[str]:
    """Warnings where the sidecars of files name another model or layer than the pair's; each but once."""
    told, first = set[str](), files[:_MOST_FILES]
    found = at_once(lambda file: list(_of_file(file, info)), first)
    for file, warnings in zip(first, found, strict=True):
        for warning in warnings:
            if warning not in told:
                told.add(warning)
                yield f"{file.path}{SIDECAR_ENDING}: {warning}"


def of_rows(table: Any, info: Info) -> str | None:
    """A warning where the column `activation_layer` of some rows (pyarrow.RecordBatch) names another layer."""
    if info.layer is None or LAYER not in table.schema.names or not pa.types.is_integer(table.schema.field(LAYER).type):
        return None
    other = [layer for layer in pc.unique(table.column(LAYER)).to_pylist() if layer not in (None, info.layer)]
    return f"column {LAYER!r}: {_another_layer(other[0], info)}" if other else None


def _of_file(file: File, info: Info) -> Iterator[str]:
    # Of a folder of parts it is beside the folder.
    folder = file.path.rpartition("/")[0]
    try:
        paths = [f"{path}{SIDECAR_ENDING}" for path in (file.path, folder)]
        there = [path for path in paths if file.filesystem.get_file_info(path).type == fs.FileType.File]
        if not there:
            return
        with file.filesystem.open_input_stream(there[0]) as stream:
            said = yaml.safe_load(stream.read())
    except (OSError, ValueError, yaml.YAMLError) as error:
        yield f"cannot be read: {reason(error)}"
        return
    sections = [said, said.get("extraction")] if isinstance(said, dict) else []
    known = [section for section in sections if isinstance(section, dict)]
    layer, model = _first(known, _LAYERS, int), _first(known, _MODELS, str)
    if None not in (layer, info.layer) and layer != info.layer:
        yield _another_layer(layer, info)
    if model and info.base_model and _name(model) != _name(info.base_model):
        yield f"these vectors are from {model}, but the pair explains those of {info.base_model}"


def _another_layer(layer: int, info: Info) -> str:
    return f"these vectors are from layer {layer}, but the pair explains those of layer {info.layer}"


def _first(sections: Sequence[dict[str, Any]], names: Sequence[str], kind: type) -> Any:
    found = (section.get(name) for name in names for section in sections)
    return next((value for value in found if type(value) is kind), None)


def _name(model: str) -> str:
    """Without its owner, folder or revision, which may be written in many ways."""
    return PurePosixPath(model.rstrip("/")).name.partition("@")[0].casefold()
