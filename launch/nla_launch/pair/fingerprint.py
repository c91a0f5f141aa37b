"""What tells a checkpoint from others of its name: of its weights only heads and some bytes of each tensor are read.

Heads and sizes alone would not do: weights that were trained on have the same. It costs some MB at 140 GB.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

from nla_gateway.description import Description
from nla_gateway.pair.blocks import block_of
from nla_launch.pair.checkpoints import Checkpoint
from nla_launch.pair.shards import missing_files
from nla_launch.pair.value_heads import FILES

_WHOLE: Final = ("config.json", "nla_meta.yaml", "adapter_config.json", "ar_meta.json")
_SAMPLE: Final = 4096
"""Bytes of each tensor, from its middle: training moves at least one of two thousand elements."""
_MAX_HEAD: Final = 100 * 2**20


def fingerprint_of(checkpoint: Checkpoint, description: Description) -> str | None:
    """Form that of what is served; None where its weights are not here, but with an engine elsewhere."""
    folder, source = checkpoint.model_path, description.source
    here = any(path.name not in FILES for path in folder.glob("*.safetensors"))
    if not here or missing_files(folder, None if source is None else source.blocks):
        return None
    return fingerprint(folder, description, *checkpoint.adapter_folders)


def fingerprint(folder: Path, description: Description | None = None, *adapters: Path) -> str:
    """Of the names, sizes, heads and samples of a checkpoint's weights, its configuration and its sidecar (sha256).

    Args:
        folder: the checkpoint's.
        description: how it is used: it names a source's blocks, and where a value head is.
        adapters: folders of what is merged into the weights.
    """
    if description is not None and description.source is not None:
        return _of_first_blocks(folder, description.source.blocks)
    digest = hashlib.sha256()
    head = description and description.reconstructor and description.reconstructor.value_head
    folders = list(dict.fromkeys([folder, *adapters]))
    elsewhere = [head.file] if head and head.file.parent not in folders else []
    for path in [*(path for one in folders for path in _files(one)), *elsewhere]:
        if not path.is_file():
            continue
        parts = [path.read_bytes()] if path.name in _WHOLE else _of_weights(path)
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        for part in parts:
            digest.update(part)
    return digest.hexdigest()


def _of_first_blocks(folder: Path, blocks: int) -> str:
    """Of a source: of its configuration, and of those weights that it needs, for others may not have been fetched."""
    digest, samples = hashlib.sha256((folder / "config.json").read_bytes()), dict[str, bytes]()
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as stream:
            head, begins = _head(stream, path.stat().st_size)
            for name, begin, end in _named(head):
                block = block_of(name)
                if block is not None and block < blocks:
                    samples[name] = _sample(stream, begins + begin, end - begin)
    for name, sample in sorted(samples.items()):
        digest.update(f"{name}\0".encode() + sample)
    return digest.hexdigest()


def _files(folder: Path) -> list[Path]:
    return sorted([*folder.glob("*.safetensors"), *(folder / name for name in _WHOLE)])


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
