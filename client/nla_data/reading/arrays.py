"""Files of arrays (numpy, safetensors, torch) as record batches: each array a column, its first axis the rows.

Reads a few rows at a time, from any filesystem; nothing is unpickled.
"""

import math
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import orjson
import pyarrow as pa
from numpy.typing import NDArray

from nla_data.errors import UsageError
from nla_data.reading.files import File

SAFETENSORS_DTYPES: Final = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "?",
}  # fmt: skip
"""bfloat16 comes as uint16, as in every other file: numpy and Arrow have no type of that name."""
_MAX_HEADER: Final = 100 * 2**20


@dataclass(frozen=True)
class Array:
    """One array of a file; `read(start, count)` gives its rows from one on, `count` at a time."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    read: Callable[[int, int], Iterator[NDArray[Any]]]


@dataclass(frozen=True)
class Arrays:
    """The arrays of a file that have a row for each vector."""

    columns: dict[str, Array]

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return next(iter(self.columns.values())).shape[0]

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return sum(array.dtype.itemsize * math.prod(array.shape[1:]) for array in self.columns.values())

    @property
    def schema(self) -> pa.Schema:
        """The columns that the arrays become."""
        empty = {name: to_arrow(np.empty((0, *a.shape[1:]), a.dtype)) for name, a in self.columns.items()}
        return pa.schema([(name, column.type) for name, column in empty.items()])

    def batches(self, start: int, count: int) -> Iterator[pa.RecordBatch]:
        """The rows from one on, `count` at a time."""
        streams = [array.read(start, count) for array in self.columns.values()]
        for chunks in zip(*streams, strict=True):
            yield pa.record_batch([to_arrow(chunk) for chunk in chunks], names=list(self.columns))


def to_arrow(array: NDArray[Any]) -> pa.Array:
    """An array [N] or [N, d] as a column."""
    if array.dtype.kind == "V" and array.dtype.itemsize == 2:  # what numpy makes of a saved ml_dtypes.bfloat16
        array = array.view(np.uint16)
    if array.ndim == 1:
        return pa.array(array)
    flat = pa.array(np.ascontiguousarray(array).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, math.prod(array.shape[1:]))


def npy(file: File, column: str) -> Arrays:
    """A .npy file: one array, [N, d] or one vector [d]."""
    stream = file.open()
    dtype, shape, fortran = _npy_header(stream, file.path)
    if len(shape) == 1 and dtype.kind in "fV":
        shape = (1, *shape)
    _check_order(fortran, shape, file.path)
    return Arrays({column: _at(stream, stream.tell(), dtype, _with_rows(shape, file.path))})


def npz(file: File, column: str) -> Arrays:
    """A .npz file: those of its arrays that have as many rows as the vectors."""
    with zipfile.ZipFile(file.open()) as archive:
        members = {name.removesuffix(".npy"): name for name in archive.namelist() if name.endswith(".npy")}
        found = {name: _member(file, member) for name, member in members.items()}
    return _alike(found, column, file.path)


def safetensors(file: File, column: str) -> Arrays:
    """A .safetensors file: those of its tensors that have as many rows as the vectors."""
    stream = file.open()
    length = int.from_bytes(stream.read(8), "little")
    if not 2 <= length <= min(_MAX_HEADER, file.size - 8):
        raise UsageError(f"{file.path}: not a safetensors file: its header would have {length} bytes")
    header = orjson.loads(stream.read(length))
    found = {}
    for name, tensor in header.items():
        if name != "__metadata__" and tensor["dtype"] in SAFETENSORS_DTYPES:
            begin, end = tensor["data_offsets"]
            dtype = np.dtype(SAFETENSORS_DTYPES[tensor["dtype"]])
            if end + 8 + length > file.size or end - begin != dtype.itemsize * math.prod(tensor["shape"]):
                raise UsageError(f"{file.path}: breaks off, or is damaged, in {name}")
            found[name] = _at(stream, 8 + length + begin, dtype, tuple(tensor["shape"]))
    return _alike(found, column, file.path)


def torch_file(file: File, column: str) -> Arrays:
    """A file of torch.save: a tensor [N, d], or a dict of such; needs torch, and unpickles nothing but tensors."""
    try:
        import torch
    except ImportError:
        raise UsageError(f"{file.path}: needs torch to read; install it, or save the tensors as safetensors") from None
    try:
        saved = torch.load(file.path, map_location="cpu", mmap=True, weights_only=True)
    except Exception as error:  # torch raises any kind for a file that is none, or wants more than tensors
        raise UsageError(f"{file.path}: no file of plain tensors: {str(error).splitlines()[0]}") from error
    tensors = {column: saved} if isinstance(saved, torch.Tensor) else saved
    if not isinstance(tensors, dict):
        raise UsageError(f"{file.path}: holds a {type(saved).__name__}, not a tensor or a dict of tensors")
    found = {str(name): _tensor(tensor) for name, tensor in tensors.items() if isinstance(tensor, torch.Tensor)}
    return _alike(found, column, file.path)


def _alike(found: dict[str, Array], column: str, path: str) -> Arrays:
    if column not in found:
        names = ", ".join(found) or "nothing that can be read"
        raise UsageError(f"{path}: has no {column!r}; it has {names}: choose one with --column")
    rows = _with_rows(found[column].shape, path)[0]
    alike = {name: array for name, array in found.items() if array.shape[:1] == (rows,) and array.dtype.kind != "O"}
    return Arrays(alike)


def _with_rows(shape: tuple[int, ...], path: str) -> tuple[int, ...]:
    if not shape:
        raise UsageError(f"{path}: holds a single number, not vectors [N, d]")
    return shape


def _check_order(fortran: bool, shape: tuple[int, ...], path: str) -> None:
    if fortran and len(shape) > 1:
        raise UsageError(f"{path}: lies column by column; save np.ascontiguousarray(vectors) instead")


def _npy_header(stream: Any, path: str) -> tuple[np.dtype[Any], tuple[int, ...], bool]:
    version = np.lib.format.read_magic(stream)  # type: ignore[no-untyped-call]
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(stream)  # type: ignore[no-untyped-call]
    if dtype.hasobject or dtype.names:
        raise UsageError(f"{path}: holds Python objects or records, not numbers")
    return dtype, shape, fortran


def _at(stream: Any, offset: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    """An array that lies uncompressed from `offset` on."""
    width = dtype.itemsize * math.prod(shape[1:])

    def read(start: int, count: int) -> Iterator[NDArray[Any]]:
        for begin in range(start, shape[0], count):
            rows = min(count, shape[0] - begin)
            data = stream.read_at(rows * width, offset + begin * width)
            yield _from_bytes(data, dtype, (rows, *shape[1:]))

    return Array(dtype, shape, read)


def _member(file: File, member: str) -> Array:
    """An array of a zip archive, which can only be read from its beginning."""

    def start_reading() -> Any:
        return zipfile.ZipFile(file.open()).open(member)

    with start_reading() as opened:
        dtype, shape, fortran = _npy_header(opened, file.path)
    _check_order(fortran, shape, file.path)
    width = dtype.itemsize * math.prod(shape[1:])

    def read(start: int, count: int) -> Iterator[NDArray[Any]]:
        with start_reading() as stream:
            _npy_header(stream, file.path)
            stream.seek(start * width, 1)
            for begin in range(start, shape[0], count):
                rows = min(count, shape[0] - begin)
                yield _from_bytes(stream.read(rows * width), dtype, (rows, *shape[1:]))

    return Array(dtype, shape, read)


def _from_bytes(data: bytes, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    if len(data) < dtype.itemsize * math.prod(shape):
        raise ValueError("it ends before its last row")
    return np.frombuffer(data, dtype).reshape(shape)


def _tensor(tensor: Any) -> Array:
    torch = sys.modules["torch"]
    as_bits = tensor.dtype == torch.bfloat16

    def rows(start: int, stop: int) -> NDArray[Any]:
        part = tensor[start:stop].detach().contiguous()
        array: NDArray[Any] = part.view(torch.uint16).numpy() if as_bits else part.numpy()
        return array

    def read(start: int, count: int) -> Iterator[NDArray[Any]]:
        for begin in range(start, tensor.shape[0], count):
            yield rows(begin, begin + count)

    dtype = np.dtype(np.uint16) if as_bits else rows(0, 0).dtype if tensor.ndim else np.dtype(np.float32)
    return Array(dtype, tuple(tensor.shape), read)
