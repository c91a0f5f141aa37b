"""What all calls share: a request and how to read its answer, several of them for one call, and samples. No I/O.

A call of the user becomes a `Batch` of requests. Each is built only when its turn comes, so that the encoded
vectors of a large batch do not pile up in memory.
"""

import operator
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Final, Generic, Literal, TypeVar

import numpy as np
import orjson

from nla_client.errors import InvalidArgumentError
from nla_client.wire import VectorDType

T = TypeVar("T")

MAX_SAMPLES: Final = 256
"""Samples (vectors times n) that the client asks for in one request."""
SEEDS: Final = 2**31


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One request and how to read its answer.

    Attributes:
        method: HTTP method.
        path: Below the base URL.
        body: JSON, or None.
        parse: From the body of a success; raises InvalidResponseError.
        offset: Where this request's items begin in the caller's batch; by field where they begin in several places.
        retry: False where the answer to a failure is the failure.
        of_pair: False where it is asked of the server as a whole, whichever of its pairs the client is for.
        halves: Makes two requests for the same items, in order, where the server takes this one for too large.
    """

    method: Literal["GET", "POST"]
    path: str
    body: bytes | None
    parse: Callable[[bytes], T]
    offset: int | Mapping[str, int] = 0
    retry: bool = True
    of_pair: bool = True
    halves: "Callable[[], tuple[Call[T], Call[T]]] | None" = None


@dataclass(frozen=True, slots=True)
class Batch(Generic[T]):
    """The requests of one call of the user; `build(k)` makes the k-th of `size`, any number of times.

    Each answer is a list of parts; all in order are the answer to the call.
    """

    size: int
    build: Callable[[int], Call[list[T]]]


@dataclass(frozen=True, slots=True)
class Sampling:
    """Keyword arguments of `POST /verbalize`, but for `stream`; the server checks their values."""

    dtype: VectorDType
    n: int
    temperature: float
    top_p: float
    top_k: int | None
    max_tokens: int | None
    seed: int | None
    score: bool

    def __post_init__(self) -> None:
        for field in fields(self):  # one of numpy's would count with its own few bits
            object.__setattr__(self, field.name, as_python(getattr(self, field.name)))

    def as_fields(self) -> dict[str, Any]:
        """Those of the request: without `max_tokens` where it is left to the server, whose limit may be below 200."""
        return {name: value for name, value in asdict(self).items() if name != "max_tokens" or value is not None}


def split(count: int, size: int, build: Callable[[int, int], Call[list[T]]]) -> Batch[T]:
    """Requests for `count` items, of `size` each; `build(start, stop)` makes the one for some of them."""

    def part(start: int, stop: int) -> Call[list[T]]:
        middle = (start + stop) // 2
        halves = (lambda: (part(start, middle), part(middle, stop))) if stop - start > 1 else None
        return replace(build(start, stop), halves=halves)

    return Batch(-(-count // size), lambda k: part(k * size, min((k + 1) * size, count)))


def ranges(count: int, size: int) -> list[range]:
    """Cut `count` items into ranges of at most `size`."""
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


def items_per_request(sampling: Sampling, batch_size: int) -> int:
    """How many vectors go into one request, by the samples of each."""
    try:
        samples = operator.index(sampling.n)
    except TypeError:
        raise InvalidArgumentError(f"n must be an integer, not {sampling.n!r}") from None
    return min(batch_size, max(1, MAX_SAMPLES // max(1, samples)))


def as_python(value: Any) -> Any:
    """A number of numpy's as one of Python's; all else as it is."""
    is_scalar = isinstance(value, np.generic | np.ndarray) and not value.shape
    return value.item() if is_scalar else value


def as_json(fields: dict[str, Any]) -> bytes:
    """The body of a request.

    Raises:
        InvalidArgumentError: something that no JSON can hold.
    """
    try:
        # An array of numpy in the place of a number is for the server to refuse.
        return orjson.dumps(fields, option=orjson.OPT_SERIALIZE_NUMPY)
    except TypeError as error:
        raise InvalidArgumentError(f"an argument cannot be sent as JSON: {error}") from error
