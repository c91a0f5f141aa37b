"""Array-likes in, base64 out: everything that may be given as a vector [d] or a batch of vectors [N, d].

All is checked at once, before anything is sent; encoding goes a few rows at a time, so that a large batch is
never in memory twice. Torch and pyarrow are known only where the caller has imported them.

uint16 is the bits of bfloat16, here as in the files of `nla`: numpy and Arrow have no type of that name.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import ml_dtypes
import numpy as np
from numpy.typing import ArrayLike, NDArray

from nla_client.errors import InvalidArgumentError, InvalidVectorError
from nla_client.wire import ITEM_SIZE, VectorDType, encode_vector

_CHECK_ROWS = 64
"""Rows checked at once: 2 MB of float32 at d_model 8192."""
_OBJECT = np.dtype(object)
_SAVED_BFLOAT16 = np.dtype("V2")
"""What numpy reads where `ml_dtypes.bfloat16` was saved."""


class TensorLike(Protocol):
    """What a type checker sees of a torch tensor without torch."""

    @property
    def shape(self) -> Sequence[int]:
        """Sizes of the dimensions."""

    def detach(self) -> Any:
        """Leave the autograd graph."""


Vector = np.ndarray[tuple[int], np.dtype[np.float32]]
"""A float32 array [d]."""
Matrix = np.ndarray[tuple[int, int], np.dtype[np.float32]]
"""A float32 array [N, d]."""
OneVector = Sequence[float]
"""What a type checker can tell to be [d]. No numpy shape: an array of unknown shape would pass for it, too."""
ManyVectors = Sequence[Sequence[float]] | Sequence[np.ndarray[Any, Any]]
"""What a type checker can tell to be [N, d]."""
VectorsLike = ArrayLike | TensorLike | Sequence[TensorLike]
"""Anything that may turn out to be [d] or [N, d] at run time."""

Reader = Callable[[int, int], NDArray[np.float32]]
"""Reads rows start to stop, [stop - start, d]."""


@dataclass(frozen=True, slots=True)
class Vectors:
    """Checked vectors, not yet encoded.

    Attributes:
        count: How many there are.
        single: True where [d] was given, not [N, d].
        read: Gives rows as float32.
        dtype: What they are sent as.
    """

    count: int
    single: bool
    read: Reader
    dtype: VectorDType

    def encode(self, start: int, stop: int) -> list[str]:
        """Encode rows `start` to `stop`, each as base64 of its elements in `dtype`."""
        return [encode_vector(row, self.dtype) for row in self.read(start, stop)]


def check_dtype(dtype: str) -> None:
    """Refuse a dtype that the wire does not have."""
    if dtype not in ITEM_SIZE:
        raise InvalidArgumentError(f"dtype must be one of {', '.join(ITEM_SIZE)}, not {dtype!r}")


def as_vectors(value: VectorsLike, dtype: VectorDType, *, nonzero: bool = False) -> Vectors:
    """Check anything array-like as [d] or [N, d]. An empty list is a batch of none.

    With `nonzero` each must have a direction, too: no server explains a vector that is all zero.

    Raises:
        InvalidVectorError: wrong number of dimensions, no elements, not numbers, elements that are masked, NaN,
            infinite or too large, or with `nonzero` all zero.
    """
    check_dtype(dtype)
    shape, read = _open(value)
    if shape == (0,) and _is_batch(value):
        return Vectors(0, False, lambda _start, _stop: np.empty((0, 0), np.float32), dtype)
    if len(shape) not in (1, 2):
        raise InvalidVectorError(f"vectors must be [d] or [N, d], not {len(shape)}-d {list(shape)}")
    if shape[-1] == 0:
        raise InvalidVectorError(f"vectors must have elements; the shape is {list(shape)}")
    single = len(shape) == 1
    vectors = Vectors(1 if single else shape[0], single, read, dtype)
    for start in range(0, vectors.count, _CHECK_ROWS):
        _check_elements(vectors, start, min(start + _CHECK_ROWS, vectors.count), nonzero=nonzero)
    return vectors


def _is_batch(value: Any) -> bool:
    """Whether nothing at all is a batch of no rows: of a list and a column of rows, but not of an array of numbers."""
    return isinstance(value, list | tuple) or np.asarray(value).dtype == object


def _check_elements(vectors: Vectors, start: int, stop: int, *, nonzero: bool) -> None:
    rows = vectors.read(start, stop)
    sent = rows if vectors.dtype == "float32" else rows.astype(ml_dtypes.bfloat16)
    finite = np.isfinite(sent)
    good = finite.all(axis=1)
    if nonzero:
        good &= sent.any(axis=1)
    if good.all():
        return
    row = int(np.argmin(good))
    where = None if vectors.single else f"vectors[{start + row}]"
    raise InvalidVectorError(f"{where or 'the vector'} {_fault(rows[row], finite[row], vectors.dtype)}", where)


def _fault(row: NDArray[np.float32], finite: NDArray[np.bool_], dtype: VectorDType) -> str:
    if finite.all():
        less = f", as {dtype}" if row.any() else ""
        return f"is all zero{less}: it has no direction to explain"
    return (
        f"has {int((~finite).sum())} elements that are NaN, infinite or too large for {dtype}, the first at "
        f"{int(np.argmin(finite))}; a common cause is float16, which overflows above 65504"
    )


def _open(value: Any) -> tuple[tuple[int, ...], Reader]:
    """Shape of the whole, and how to read rows of it as float32."""
    if isinstance(value, list | tuple) and any(map(_is_row, value)):
        rows = [_as_row(item, index) for index, item in enumerate(value)]
        return _stacked_shape(rows), lambda start, stop: np.stack([_float32(row) for row in rows[start:stop]])
    array = _real_tensor(value) if _is_tensor(value) else _array(value)
    if isinstance(array, list):
        return _open(array)
    shape = tuple(int(size) for size in array.shape)
    rows = array[None] if len(shape) == 1 else array
    return shape, lambda start, stop: _float32(rows[start:stop])


def _array(value: Any) -> Any:
    """The value as an array of numbers, or where it holds rows as a list of them."""
    array = _unmasked(value) if isinstance(value, np.ma.MaskedArray) else _plain(value)
    if array.dtype != object or not array.ndim:
        return _numbers(array, value)
    # A column of rows, or numbers that lost their type on the way, such as in a table of several types.
    items = array.tolist()
    if any(map(_is_row, items)):
        return items
    return _numbers(_plain(items), value)


def _is_row(item: Any) -> bool:
    """Whether an item of a sequence is itself a vector, not a number or a list of numbers."""
    return bool(getattr(item, "shape", ())) or _is_arrow_list(item)


def _as_row(item: Any, index: int) -> Any:
    """An item of a sequence that holds rows; the check is all that is done to one that has a shape."""
    where = f"vectors[{index}]"
    if isinstance(item, np.ma.MaskedArray):
        return _unmasked(item, where)
    if _is_arrow_list(item):
        item = _storage(item).values
    if getattr(item, "shape", ()) and getattr(item, "dtype", None) is not _OBJECT:
        return item
    if not isinstance(item, list | tuple) and not hasattr(item, "__array__"):
        raise InvalidVectorError(f"{where} is {item!r}, not a row of numbers", where)
    try:
        array = _plain(item)
        return _numbers(_plain(array.tolist()) if array.dtype == object else array, item)
    except InvalidVectorError as error:
        raise InvalidVectorError(f"{where}: {error}", where) from error


def _stacked_shape(items: Sequence[Any]) -> tuple[int, ...]:
    shapes = [tuple(int(size) for size in item.shape) for item in items]
    for index, (before, after) in enumerate(pairwise(shapes)):
        if before != after:
            raise InvalidVectorError(f"vectors differ in shape: {before} at {index}, {after} at {index + 1}")
    return (len(items), *shapes[0])


def _is_tensor(value: object) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _is_arrow_list(value: object) -> bool:
    """Whether a value is one row of an Arrow column of lists."""
    arrow = sys.modules.get("pyarrow")
    return arrow is not None and isinstance(value, arrow.Scalar) and hasattr(_storage(value), "values")


def _storage(scalar: Any) -> Any:
    """What a value of an extension type, such as a tensor, is stored as; any other as it is."""
    return scalar.value if isinstance(scalar.type, sys.modules["pyarrow"].BaseExtensionType) else scalar


def _float32(value: Any) -> NDArray[np.float32]:
    if _is_tensor(value):
        return _tensor_float32(value)
    with np.errstate(over="ignore"):  # an overflow becomes infinite, and the check names its row
        return _as_numbers(_numbers(_plain(value), value)).astype(np.float32)


def _tensor_float32(tensor: Any) -> NDArray[np.float32]:
    torch = sys.modules["torch"]
    real = _real_tensor(tensor)
    try:
        if real.dtype == getattr(torch, "uint16", None):
            real = real.view(torch.bfloat16)
        array: NDArray[np.float32] = real.to(device="cpu", dtype=torch.float32).numpy()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidVectorError(f"cannot read the tensor: {error}") from error
    return array


def _real_tensor(tensor: Any) -> Any:
    torch = sys.modules["torch"]
    nested = getattr(tensor, "is_nested", False)
    if tensor.is_complex() or tensor.dtype == torch.bool or tensor.layout != torch.strided or nested:
        raise InvalidVectorError(f"vectors must be dense real numbers, not a tensor of {tensor.dtype}, {tensor.layout}")
    if hasattr(tensor, "get_mask"):  # torch.masked
        raise InvalidVectorError(
            "vectors must be dense real numbers, not a masked tensor: fill it with to_tensor(value)"
        )
    return tensor.detach()


def _unmasked(array: "np.ma.MaskedArray[Any, Any]", where: str | None = None) -> NDArray[Any]:
    """The numbers of an array where nothing is masked: what lies under a mask is no one's value."""
    mask: NDArray[np.bool_] = np.ma.getmaskarray(array)  # type: ignore[no-untyped-call]
    if not mask.any():
        return np.asarray(array.data)
    place = where
    if array.ndim == 2 and where is None:
        place = f"vectors[{int(np.argmax(mask.any(axis=1)))}]"
        mask = mask[mask.any(axis=1)][0]
    count = int(mask.sum())
    raise InvalidVectorError(
        f"{place or 'the vector'} has {count} masked elements, the first at {int(np.argmax(mask))}: fill them with "
        "filled(value), or leave the vector out",
        place,
    )


def _plain(value: Any) -> NDArray[Any]:
    try:
        return np.asarray(_storage(value).values if _is_arrow_list(value) else value)
    except Exception as error:  # whatever an object's own conversion raises
        raise InvalidVectorError(f"cannot read a {type(value).__name__} as vectors: {error}") from error


def _numbers(array: NDArray[Any], value: Any) -> NDArray[Any]:
    # numpy itself does not count bfloat16 as floating, nor knows it when it reads one that was saved.
    kinds = (ml_dtypes.bfloat16, _SAVED_BFLOAT16)
    if array.dtype.kind not in "fiu" and array.dtype not in kinds:
        raise InvalidVectorError(f"vectors must be real numbers, not a {type(value).__name__} of {array.dtype}")
    return array


def _as_numbers(array: NDArray[Any]) -> NDArray[Any]:
    if array.dtype == _SAVED_BFLOAT16:
        return array.view(ml_dtypes.bfloat16)
    if array.dtype.kind == "u" and array.dtype.itemsize == 2:
        return array.astype(np.uint16).view(ml_dtypes.bfloat16)
    return array
