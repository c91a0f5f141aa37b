"""Files of tensors: safetensors and torch.save; nothing but tensors is unpickled."""

import math
import sys
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray

from nla_data.errors import UsageError
from nla_data.reading import spool
from nla_data.reading.arrays import Array, Arrays, of_file
from nla_data.reading.files import File
from nla_data.reading.numpy_files import at

SAFETENSORS_DTYPES: Final = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "?",
}  # fmt: skip
"""bfloat16 comes as uint16, as in every other file: numpy and Arrow have no type of that name."""
_MAX_HEADER: Final = 100 * 2**20


def safetensors(file: File, column: str) -> Arrays:
    """A .safetensors file: those of its tensors that have as many rows as the vectors."""
    stream = file.open()
    length = int.from_bytes(stream.read(8), "little")
    if not 2 <= length <= min(_MAX_HEADER, file.size - 8):
        raise UsageError(f"{file.path}: not a safetensors file: its header would have {length} bytes")
    header = orjson.loads(stream.read(length))
    found: dict[str, Array | str] = {}
    for name, tensor in header.items():
        if name == "__metadata__":
            continue
        if tensor["dtype"] not in SAFETENSORS_DTYPES:
            found[name] = f"holds {tensor['dtype']}, which Arrow has not"
            continue
        begin, end = tensor["data_offsets"]
        dtype = np.dtype(SAFETENSORS_DTYPES[tensor["dtype"]])
        if end + 8 + length > file.size or end - begin != dtype.itemsize * math.prod(tensor["shape"]):
            raise UsageError(f"{file.path}: breaks off, or is damaged, in {name}")
        is_bits = tensor["dtype"] == "BF16"
        found[name] = at(stream, 8 + length + begin, dtype, tuple(tensor["shape"]), is_bits=is_bits)
    return of_file(found, column, file.path)


def torch_file(file: File, column: str) -> Arrays:
    """A file of torch.save: a tensor [N, d] or [d], or a dict of such; needs torch."""
    try:
        import torch
    except ImportError:
        raise UsageError(f"{file.path}: needs torch to read; install it, or save the tensors as safetensors") from None
    # torch maps local files alone.
    path = spool.local(file)
    try:
        saved = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except Exception as error:  # torch raises any kind for a file that is none, or wants more than tensors
        raise UsageError(f"{file.path}: no file of plain tensors: {str(error).splitlines()[0]}") from error
    tensors = {column: saved} if isinstance(saved, torch.Tensor) else saved
    if not isinstance(tensors, dict):
        raise UsageError(f"{file.path}: holds a {type(saved).__name__}, not a tensor or a dict of tensors")
    return of_file({str(name): _tensor(value) for name, value in tensors.items()}, column, file.path)


def _tensor(tensor: Any) -> Array | str:
    torch = sys.modules["torch"]
    if not isinstance(tensor, torch.Tensor):
        return f"is a {type(tensor).__name__}, not a tensor"
    as_bits = tensor.dtype == torch.bfloat16

    def rows(start: int, stop: int) -> NDArray[Any]:
        part = tensor[start:stop].detach().contiguous()
        array: NDArray[Any] = part.view(torch.uint16).numpy() if as_bits else part.numpy()
        return array

    def read(start: int, count: int) -> Iterator[NDArray[Any]]:
        for begin in range(start, tensor.shape[0], count):
            yield rows(begin, begin + count)

    try:
        dtype = np.dtype(np.uint16) if as_bits else rows(0, 0).dtype if tensor.ndim else np.dtype(np.float32)
    except (TypeError, RuntimeError):
        return f"holds {tensor.dtype} ({tensor.layout}), which numpy has not"
    return Array(dtype, tuple(tensor.shape), read, as_bits)
