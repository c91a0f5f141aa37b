"""Fields that take one value or a list: as lists, with the names that errors give their elements."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nla_client.wire import VectorDType, decode_vector
from nla_gateway.engines.concurrency import map_in_slices
from nla_gateway.errors import InvalidRequest


def as_list(value: str | list[str]) -> list[str]:
    """Return the value as a list."""
    return [value] if isinstance(value, str) else value


def field_names(name: str, value: str | list[str]) -> Sequence[str]:
    """Name each element: `texts` for one value, `texts[0]`, `texts[1]`, ... for a list."""
    return [name] if isinstance(value, str) else [f"{name}[{index}]" for index in range(len(value))]


def check_pairs(texts: list[str], vectors: list[str]) -> None:
    """Raise InvalidRequest where one has no partner."""
    if len(texts) != len(vectors):
        raise InvalidRequest(f"{len(texts)} texts and {len(vectors)} vectors: give pairs", param="vectors")


async def parse_vectors(value: str | list[str], dtype: VectorDType, d_model: int) -> list[NDArray[np.float32]]:
    """Decode the field `vectors` into float32 vectors [d_model].

    Raises:
        InvalidRequest: bad base64, wrong length, NaN or infinite elements, or all zero.
    """
    named = zip(as_list(value), field_names("vectors", value), strict=True)
    return await map_in_slices(lambda item: _parse_vector(item[0], dtype, d_model, item[1]), named)


def _parse_vector(data: str, dtype: VectorDType, d_model: int, param: str) -> NDArray[np.float32]:
    try:
        vector = decode_vector(data, dtype, d_model)
    except ValueError as error:
        raise InvalidRequest(f"{param}: {error}", param=param) from None
    if not vector.any():
        raise InvalidRequest(f"{param}: the vector is all zero: it has no direction to explain", param=param)
    return vector
