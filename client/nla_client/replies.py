"""Bodies of successful answers, read and checked against what was asked. Pure.

Every function raises InvalidResponseError for a body that does not fit the contract.
"""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from nla_client.errors import InvalidResponseError
from nla_client.results import Scores, Verbalization, Verbalizations
from nla_client.wire import CriticResponse, ReconstructResponse, Score, VerbalizeResponse, decode_vector

M = TypeVar("M", bound=BaseModel)


def model(kind: type[M], reply: bytes) -> M:
    """Parse a body that is one model."""
    try:
        return kind.model_validate_json(reply)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the body"
        raise InvalidResponseError(f"the answer is no {kind.__name__}: {place}: {first['msg']}") from error


def _check_order(indices: Sequence[int], count: int) -> None:
    if list(indices) != list(range(count)):
        raise InvalidResponseError(f"the answer has results {list(indices)}, not 0 to {count - 1} in order")


def verbalizations(reply: bytes, count: int) -> Verbalizations:
    """Answer of `/verbalize` to `count` vectors."""
    response = model(VerbalizeResponse, reply)
    results = response.results
    _check_order([result.index for result in results], count)
    if not all(result.samples for result in results):
        raise InvalidResponseError("the answer has a result without samples")
    told = (Verbalization(tuple(result.samples)) for result in results)
    return Verbalizations(told, response.model, response.usage)


def reconstructions(reply: bytes, count: int) -> list[NDArray[np.float32]]:
    """Answer of `/reconstruct` to `count` texts: vectors [d]."""
    response = model(ReconstructResponse, reply)
    _check_order(range(len(response.vectors)), count)
    try:
        return [decode_vector(data, response.dtype, response.d_model) for data in response.vectors]
    except ValueError as error:
        raise InvalidResponseError(f"the answer has a vector that cannot be read: {error}") from error


def scores(reply: bytes, count: int) -> Scores:
    """Answer of `/critic` to `count` pairs."""
    response = model(CriticResponse, reply)
    _check_order([result.index for result in response.results], count)
    told = (Score(mse=result.mse, cosine=result.cosine, fve=result.fve) for result in response.results)
    return Scores(told, response.model, response.usage)
