"""Array-likes in, base64 out: everything that may be given as a vector [d] or a batch of vectors [N, d].

All is checked at once, before anything is sent; encoding goes a few rows at a time, so that a large batch is
never in memory twice. Torch is known only where the caller has imported it.
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


def as_vectors(value: VectorsLike, dtype: VectorDType) -> Vectors:
    """Check anything array-like as [d] or [N, d]. An empty list is a batch of none.

    Raises:
        InvalidVectorError: wrong number of dimensions, no elements, not numbers, or elements that are NaN,
            infinite or too large.
    """
    check_dtype(dtype)
    if isinstance(value, list | tuple) and not value:
        return Vectors(0, False, lambda _start, _stop: np.empty((0, 0), np.float32), dtype)
    shape, read = _open(value)
    if len(shape) not in (1, 2):
        raise InvalidVectorError(f"vectors must be [d] or [N, d], not {len(shape)}-d {list(shape)}")
    if shape[-1] == 0:
        raise InvalidVectorError(f"vectors must have elements; the shape is {list(shape)}")
    single = len(shape) == 1
    vectors = Vectors(1 if single else shape[0], single, read, dtype)
    for start in range(0, vectors.count, _CHECK_ROWS):
        _check_elements(vectors, start, min(start + _CHECK_ROWS, vectors.count))
    return vectors


def _check_elements(vectors: Vectors, start: int, stop: int) -> None:
    rows = vectors.read(start, stop)
    sent = rows if vectors.dtype == "float32" else rows.astype(ml_dtypes.bfloat16)
    finite = np.isfinite(sent)
    if finite.all():
        return
    row, column = (int(index) for index in np.argwhere(~finite)[0])
    where, bad = "the vector" if vectors.single else f"vectors[{start + row}]", int((~finite[row]).sum())
    raise InvalidVectorError(
        f"{where} has {bad} elements that are NaN, infinite or too large for {vectors.dtype}, the first at "
        f"{column}; a common cause is float16, which overflows above 65504"
    )


def _open(value: Any) -> tuple[tuple[int, ...], Reader]:
    """Shape of the whole, and how to read rows of it as float32."""
    if isinstance(value, list | tuple) and all(getattr(item, "shape", ()) for item in value):
        return _stacked_shape(value), lambda start, stop: np.stack([_float32(row) for row in value[start:stop]])
    array = _real_tensor(value) if _is_tensor(value) else _number_array(value)
    shape = tuple(int(size) for size in array.shape)
    rows = array[None] if len(shape) == 1 else array
    return shape, lambda start, stop: _float32(rows[start:stop])


def _stacked_shape(items: Sequence[Any]) -> tuple[int, ...]:
    shapes = [tuple(int(size) for size in item.shape) for item in items]
    for index, (before, after) in enumerate(pairwise(shapes)):
        if before != after:
            raise InvalidVectorError(f"vectors differ in shape: {before} at {index}, {after} at {index + 1}")
    return (len(items), *shapes[0])


def _is_tensor(value: object) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _float32(value: Any) -> NDArray[np.float32]:
    if _is_tensor(value):
        return _tensor_float32(value)
    with np.errstate(over="ignore"):  # an overflow becomes infinite, and the check names its row
        return _number_array(value).astype(np.float32)


def _tensor_float32(tensor: Any) -> NDArray[np.float32]:
    torch = sys.modules["torch"]
    try:
        array: NDArray[np.float32] = _real_tensor(tensor).to(device="cpu", dtype=torch.float32).numpy()
    except (TypeError, ValueError, NotImplementedError) as error:
        raise InvalidVectorError(f"cannot read the tensor: {error}") from error
    return array


def _real_tensor(tensor: Any) -> Any:
    torch = sys.modules["torch"]
    if tensor.is_complex() or tensor.dtype == torch.bool or tensor.layout != torch.strided:
        raise InvalidVectorError(f"vectors must be dense real numbers, not a tensor of {tensor.dtype}, {tensor.layout}")
    return tensor.detach()


def _number_array(value: Any) -> NDArray[Any]:
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:  # the last from a list of torch scalars that want gradients
        raise InvalidVectorError(f"cannot read a {type(value).__name__} as vectors: {error}") from error
    # numpy itself does not count bfloat16 as floating.
    if array.dtype.kind not in "fiu" and array.dtype != ml_dtypes.bfloat16:
        raise InvalidVectorError(f"vectors must be real numbers, not a {type(value).__name__} of {array.dtype}")
    return array
