"""Files of numpy: .npy and .npz, in any order of bytes and axes; nothing is unpickled."""

import math
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nla_data.reading import spool
from nla_data.reading.arrays import Array, Arrays, of_file
from nla_data.reading.files import File

_Header = tuple[np.dtype[Any], tuple[int, ...], bool]
"""dtype, shape, and whether it lies column by column."""


def npy(file: File, column: str) -> Arrays:
    """A .npy file: one array, [N, d] or one vector [d]."""
    stream = file.open()
    dtype, shape, fortran = _header(stream)
    if dtype.hasobject or dtype.names:
        return of_file({column: _no_numbers(dtype)}, column, file.path)
    if fortran and len(shape) > 1:
        path = spool.local(file)
        return of_file({column: _by_columns(lambda: path, stream.tell(), dtype, shape)}, column, file.path)
    return of_file({column: at(stream, stream.tell(), dtype, shape)}, column, file.path)


def npz(file: File, column: str) -> Arrays:
    """A .npz file: those of its arrays that have as many rows as the vectors."""
    with zipfile.ZipFile(file.open()) as archive:
        members = {name.removesuffix(".npy"): name for name in archive.namelist() if name.endswith(".npy")}
        found = {name: _member(file, member) for name, member in members.items()}
    return of_file(found, column, file.path)


def at(stream: Any, offset: int, dtype: np.dtype[Any], shape: tuple[int, ...], *, is_bits: bool = False) -> Array:
    """An array that lies uncompressed, row by row, from `offset` on."""
    width = dtype.itemsize * math.prod(shape[1:])

    def read(start: int, count: int) -> Iterator[NDArray[Any]]:
        for begin in range(start, shape[0], count):
            rows = min(count, shape[0] - begin)
            data = stream.read_at(rows * width, offset + begin * width)
            yield _from_bytes(data, dtype, (rows, *shape[1:]))

    return Array(dtype, shape, read, is_bits)


def _member(file: File, member: str) -> Array | str:
    """An array of a zip archive, which can only be read from its beginning; or why it cannot be read."""

    def start_reading() -> Any:
        return zipfile.ZipFile(file.open()).open(member)

    with start_reading() as opened:
        dtype, shape, fortran = _header(opened)
        offset = opened.tell()
    if dtype.hasobject or dtype.names:
        return _no_numbers(dtype)
    if fortran and len(shape) > 1:
        return _by_columns(lambda: spool.kept(file, member, start_reading), offset, dtype, shape)
    width = dtype.itemsize * math.prod(shape[1:])

    def read(start: int, count: int) -> Iterator[NDArray[Any]]:
        with start_reading() as stream:
            stream.read(offset)
            spool.skip(stream, start * width)
            for begin in range(start, shape[0], count):
                rows = min(count, shape[0] - begin)
                yield _from_bytes(stream.read(rows * width), dtype, (rows, *shape[1:]))

    return Array(dtype, shape, read)


def _by_columns(path: Callable[[], str], offset: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    """An array that lies column by column: in a local file, whose pages the system may drop again."""

    def read(start: int, count: int) -> Iterator[NDArray[Any]]:
        mapped: NDArray[Any] = np.memmap(path(), dtype, "r", offset, shape, "F")
        for begin in range(start, shape[0], count):
            yield np.ascontiguousarray(mapped[begin : begin + count])

    return Array(dtype, shape, read)


def _header(stream: Any) -> _Header:
    version = np.lib.format.read_magic(stream)  # type: ignore[no-untyped-call]
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(stream)  # type: ignore[no-untyped-call]
    return dtype, shape, fortran


def _no_numbers(dtype: np.dtype[Any]) -> str:
    return "holds Python objects, which are not unpickled" if dtype.hasobject else "holds records, not numbers"


def _from_bytes(data: bytes, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    if len(data) < dtype.itemsize * math.prod(shape):
        raise ValueError("it ends before its last row")
    return np.frombuffer(data, dtype).reshape(shape)
