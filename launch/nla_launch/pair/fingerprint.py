"""What tells a checkpoint from others of its name: of its weights only heads and some bytes of each tensor are read.

Heads and sizes alone would not do: weights that were trained on have the same. It costs some MB at 140 GB.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

from nla_gateway.description import Description
from nla_launch.errors import LaunchError
from nla_launch.pair.bases import part_of
from nla_launch.pair.checkpoints import ALL_WEIGHTS as WEIGHTS
from nla_launch.pair.checkpoints import Checkpoint
from nla_launch.pair.heads import weight_map
from nla_launch.pair.made import MADE, recipe
from nla_launch.pair.shards import Part, is_wanted, missing_files
from nla_launch.pair.value_heads import FILES

_WHOLE: Final = ("config.json", "nla_meta.yaml", "adapter_config.json", "ar_meta.json")
_SAMPLE: Final = 4096
"""Bytes of each tensor, from its middle: training moves at least one of two thousand elements."""
_MAX_HEAD: Final = 100 * 2**20


def fingerprint_of(checkpoint: Checkpoint, description: Description) -> str | None:
    """Form that of what is served; None where not all its weights are here, but with an engine elsewhere.

    Raises:
        LaunchError: a file cannot be read.
    """
    if checkpoint.source.startswith(MADE):  # on each machine, where sums may be rounded otherwise
        return recipe(checkpoint.source.removeprefix(MADE))
    try:
        if not _are_here(checkpoint, description):
            return None
        part = part_of(checkpoint, description)
        return fingerprint(checkpoint.model_path, description, *checkpoint.adapter_folders, part=part)
    except OSError as error:
        raise LaunchError(f"{error.filename}: {error.strerror}: fetch the checkpoint again") from None


def _are_here(checkpoint: Checkpoint, description: Description) -> bool:
    folder, head = checkpoint.model_path, _value_head(description)
    return (
        any(path.name not in FILES for path in folder.glob(WEIGHTS))
        and not missing_files(folder, part_of(checkpoint, description))
        and all(any(adapter.glob(WEIGHTS)) for adapter in checkpoint.adapter_folders)
        and (head is None or head.is_file())
    )


def _value_head(description: Description | None) -> Path | None:
    """The file of a reconstructor's."""
    head = description and description.reconstructor and description.reconstructor.value_head
    return head.file if head else None


def fingerprint(folder: Path, description: Description | None = None, *adapters: Path, part: Part | None = None) -> str:
    """Of the names, sizes, heads and samples of a checkpoint's weights, its configuration and its sidecar (sha256).

    Args:
        folder: the checkpoint's.
        description: how it is used: it says where a value head is.
        adapters: folders of what is merged into the weights.
        part: what of the model is served; None: all of it.
    """
    digest = hashlib.sha256(b"" if part is None else _of_part(folder, part))
    if description is not None and description.source is not None:
        return digest.hexdigest()
    head = _value_head(description)
    folders = list(dict.fromkeys([folder, *adapters]))
    elsewhere = [head] if head and head.parent not in folders else []
    whole = [one for one in folders if part is None or one != folder]
    for path in [*(path for one in folders for path in _files(one, weights=one in whole)), *elsewhere]:
        if not path.is_file():
            continue
        pieces = [path.read_bytes()] if path.name in _WHOLE else _of_weights(path)
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        for piece in pieces:
            digest.update(piece)
    return digest.hexdigest()


def _of_part(folder: Path, part: Part) -> bytes:
    """The configuration, and samples of those weights that are needed, for others may not have been fetched."""
    samples = dict[str, bytes]()
    for path in sorted(folder.glob(WEIGHTS)):
        with path.open("rb") as stream:
            head, begins = _head(stream, path.stat().st_size)
            for name, begin, end in _named(head):
                if is_wanted(name, part):
                    samples[name] = _sample(stream, begins + begin, end - begin)
    named = (f"{name}\0".encode() + sample for name, sample in sorted(samples.items()))
    return b"".join([(folder / "config.json").read_bytes(), *named])


def _files(folder: Path, *, weights: bool) -> list[Path]:
    """Those that are read: of a model's weights, where there is an index, those in it."""
    named = weight_map(folder) if weights else {}
    found = folder.glob(WEIGHTS) if named is None else (folder / name for name in {*named.values(), *FILES})
    return sorted([*found, *(folder / name for name in _WHOLE)])


def _of_weights(path: Path) -> Iterator[bytes]:
    """The head of a file of safetensors, and a sample of each tensor."""
    with path.open("rb") as stream:
        head, begins = _head(stream, path.stat().st_size)
        yield head
        for begin, end in sorted((begin, end) for _, begin, end in _named(head)):
            yield _sample(stream, begins + begin, end - begin)


def _head(stream: BinaryIO, size: int) -> tuple[bytes, int]:
    """The head of a file of safetensors, and where its tensors begin."""
    length = int.from_bytes(stream.read(8), "little")
    return stream.read(min(length, size, _MAX_HEAD)), 8 + length


def _named(head: bytes) -> list[tuple[str, int, int]]:
    """Where each tensor lies; none where the head is damaged, which the engine finds out."""
    try:
        tensors: dict[str, Any] = json.loads(head)
        offsets = {name: tensor["data_offsets"] for name, tensor in tensors.items() if "dtype" in tensor}
        return [(name, int(begin), int(end)) for name, (begin, end) in offsets.items()]
    except (ValueError, KeyError, TypeError, AttributeError):
        return []


def _sample(stream: BinaryIO, begin: int, size: int) -> bytes:
    stream.seek(begin + max(0, size - _SAMPLE) // 2)
    return stream.read(min(size, _SAMPLE))
