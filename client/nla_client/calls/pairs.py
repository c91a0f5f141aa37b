"""The contract's endpoints as pure values: what to send and how to read the answer. No I/O.

Those that begin with a text are in `source_calls`.

A call of the user becomes a `Batch` of requests. Each is built only when its turn comes, so that the encoded
vectors of a large batch do not pile up in memory.
"""

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Final, Generic, Literal, Protocol, TypeVar, cast

import numpy as np
import orjson
from numpy.typing import NDArray

from nla_client import replies
from nla_client.ablated import Ablations
from nla_client.errors import InvalidArgumentError
from nla_client.replies import Block
from nla_client.results import Scores, Verbalization, Verbalizations
from nla_client.vectors import Matrix, Vector, Vectors, check_dtype
from nla_client.wire import Info, PartKind, Sample, VectorDType

T = TypeVar("T")

MAX_SAMPLES: Final = 256
"""Samples (vectors times n) that the client asks for in one request."""
MATRIX_VECTORS: Final = 512
"""Vectors in one request that scores every text against every vector; where the server takes fewer, it is halved."""
ABLATED_TEXTS: Final = 8
"""How many texts, roughly, the parts of one make."""
SEEDS: Final = 2**31

OneText = str | Verbalization | Sample
"""What is one text."""


class Column(Protocol):
    """A column of texts, of numpy, pandas or pyarrow."""

    def __array__(self) -> NDArray[Any]: ...


ManyTexts = list[str] | tuple[str, ...] | Sequence[Verbalization] | Sequence[Sample] | Column
"""What is several texts."""


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
        halves: Makes two requests for the same items, in order, where the server takes this one for too large.
    """

    method: Literal["GET", "POST"]
    path: str
    body: bytes | None
    parse: Callable[[bytes], T]
    offset: int | Mapping[str, int] = 0
    retry: bool = True
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
    max_tokens: int
    seed: int | None
    score: bool

    def __post_init__(self) -> None:
        for field in fields(self):  # one of numpy's would count with its own few bits
            object.__setattr__(self, field.name, as_python(getattr(self, field.name)))


def verbalize(vectors: Vectors, sampling: Sampling, batch_size: int) -> Batch[Verbalizations]:
    """`POST /verbalize`, as many as it takes."""
    size = items_per_request(sampling, batch_size)

    def build(start: int, stop: int) -> Call[list[Verbalizations]]:
        body = _verbalize_body(vectors, sampling, start, stop)
        return Call("POST", "/verbalize", body, lambda reply: [replies.verbalizations(reply, stop - start)], start)

    return split(vectors.count, size, build)


def verbalize_stream(vectors: Vectors, sampling: Sampling, batch_size: int) -> Call[bytes]:
    """`POST /verbalize` as server-sent events, in one request.

    Raises:
        InvalidArgumentError: no vectors, or more than fit in one request.
    """
    size = items_per_request(sampling, batch_size)
    if not 1 <= vectors.count <= size:
        raise InvalidArgumentError(f"a stream takes 1 to {size} vectors with n={sampling.n}, not {vectors.count}")
    body = _verbalize_body(vectors, sampling, 0, vectors.count, stream=True)
    return Call("POST", "/verbalize", body, bytes)


def reconstruct(texts: Sequence[str], dtype: VectorDType, batch_size: int) -> Batch[NDArray[np.float32]]:
    """`POST /reconstruct`, as many as it takes."""
    check_dtype(dtype)

    def build(start: int, stop: int) -> Call[list[NDArray[np.float32]]]:
        body = as_json({"texts": texts[start:stop], "dtype": dtype})
        return Call("POST", "/reconstruct", body, lambda reply: replies.reconstructions(reply, stop - start), start)

    return split(len(texts), batch_size, build)


def critic(texts: Sequence[str], vectors: Vectors, batch_size: int) -> Batch[Scores]:
    """`POST /critic`, as many as it takes."""

    def build(start: int, stop: int) -> Call[list[Scores]]:
        fields = {"texts": texts[start:stop], "vectors": vectors.encode(start, stop), "dtype": vectors.dtype}
        return Call("POST", "/critic", as_json(fields), lambda reply: [replies.scores(reply, stop - start)], start)

    return split(vectors.count, batch_size, build)


def critic_matrix(texts: Sequence[str], vectors: Vectors, batch_size: int) -> Batch[Block]:
    """`POST /critic` with pairs="all", as many as it takes; a text is rebuilt once for many vectors."""
    wide = max(batch_size, MATRIX_VECTORS)

    def build(rows: range, columns: range) -> Call[list[Block]]:
        body = as_json(
            {
                "texts": texts[rows.start : rows.stop],
                "vectors": vectors.encode(columns.start, columns.stop),
                "dtype": vectors.dtype,
                "pairs": "all",
            }
        )
        offset = {"texts": rows.start, "vectors": columns.start}
        halves = (lambda: _halved(rows, columns, build)) if len(rows) > 1 or len(columns) > 1 else None
        return Call("POST", "/critic", body, lambda reply: [replies.block(reply, rows, columns)], offset, halves=halves)

    cells = [(rows, columns) for rows in ranges(len(texts), batch_size) for columns in ranges(vectors.count, wide)]
    return Batch(len(cells), lambda k: build(*cells[k]))


def _halved(rows: range, columns: range, build: Callable[[range, range], Call[T]]) -> tuple[Call[T], Call[T]]:
    """The same cells in two requests, cut across the longer side."""
    if len(columns) >= len(rows):
        middle = (columns.start + columns.stop) // 2
        return build(rows, range(columns.start, middle)), build(rows, range(middle, columns.stop))
    middle = (rows.start + rows.stop) // 2
    return build(range(rows.start, middle), columns), build(range(middle, rows.stop), columns)


def ranges(count: int, size: int) -> list[range]:
    """Cut `count` items into ranges of at most `size`."""
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


def ablate(texts: Sequence[str], vectors: Vectors, by: PartKind, batch_size: int) -> Batch[Ablations]:
    """`POST /ablate`, as many as it takes: a text is many texts there."""
    size = max(1, batch_size // ABLATED_TEXTS)

    def build(start: int, stop: int) -> Call[list[Ablations]]:
        some = texts[start:stop]
        fields = {"texts": some, "vectors": vectors.encode(start, stop), "dtype": vectors.dtype, "by": by}
        return Call("POST", "/ablate", as_json(fields), lambda reply: [replies.ablations(reply, some)], start)

    return split(vectors.count, size, build)


def info() -> Call[Info]:
    """`GET /v1/info`."""
    return Call("GET", "/v1/info", None, lambda reply: replies.model(Info, reply))


def ready() -> Call[bool]:
    """`GET /ready`."""
    return Call("GET", "/ready", None, lambda _reply: True, retry=False)


def as_texts(texts: object) -> tuple[list[str], bool]:
    """The texts as a list, and whether it was one text alone. A result, and one of its samples, stand for their text.

    Raises:
        InvalidArgumentError: neither a text nor a sequence or column of texts.
    """
    if isinstance(texts, str | Verbalization | Sample):
        return [_text(texts, 0)], True
    if hasattr(texts, "__array__"):
        column = np.asarray(texts)
        texts = column.tolist() if column.ndim == 1 else column
    if not isinstance(texts, Sequence) or isinstance(texts, bytes | bytearray):
        raise InvalidArgumentError(f"texts must be a str or a list of str, not a {type(texts).__name__}")
    return [_text(text, index) for index, text in enumerate(texts)], False


def _text(text: object, index: int) -> str:
    if isinstance(text, Verbalization | Sample):
        return text.text
    if not isinstance(text, str):
        raise InvalidArgumentError(f"texts must be str, and texts[{index}] is {text!r}")
    return str(text)


def as_array(vectors: Sequence[NDArray[np.float32]], single: bool) -> Vector | Matrix:
    """Vectors [d] as one array: [d] for one alone, else [N, d]."""
    if single:
        return cast(Vector, vectors[0])
    return cast(Matrix, np.stack(vectors) if vectors else np.empty((0, 0), np.float32))


def check_stream(*, best: bool) -> None:
    """Refuse what a stream cannot do."""
    if best:
        raise InvalidArgumentError("best=True needs all samples of a vector: it does not go with stream=True")


def check_pairs(texts: Sequence[str], single: bool, vectors: Vectors) -> None:
    """Refuse texts and vectors that do not pair up."""
    if single != vectors.single:
        raise InvalidArgumentError("a text goes with a vector [d], and a list of texts with vectors [N, d]")
    if len(texts) != vectors.count:
        raise InvalidArgumentError(f"{len(texts)} texts and {vectors.count} vectors do not pair up")


def check_matrix(single: bool, vectors: Vectors) -> None:
    """Refuse one text or one vector alone, where many are meant."""
    if single or vectors.single:
        raise InvalidArgumentError("every text against every vector takes a list of texts and vectors [N, d]")


def split(count: int, size: int, build: Callable[[int, int], Call[list[T]]]) -> Batch[T]:
    """Requests for `count` items, of `size` each; `build(start, stop)` makes the one for some of them."""

    def part(start: int, stop: int) -> Call[list[T]]:
        middle = (start + stop) // 2
        halves = (lambda: (part(start, middle), part(middle, stop))) if stop - start > 1 else None
        return replace(build(start, stop), halves=halves)

    return Batch(-(-count // size), lambda k: part(k * size, min((k + 1) * size, count)))


def as_python(value: Any) -> Any:
    """A number of numpy's as one of Python's; all else as it is."""
    is_scalar = isinstance(value, np.generic | np.ndarray) and not value.shape
    return value.item() if is_scalar else value


def items_per_request(sampling: Sampling, batch_size: int) -> int:
    """How many vectors go into one request, by the samples of each."""
    try:
        samples = operator.index(sampling.n)
    except TypeError:
        raise InvalidArgumentError(f"n must be an integer, not {sampling.n!r}") from None
    return min(batch_size, max(1, MAX_SAMPLES // max(1, samples)))


def _verbalize_body(vectors: Vectors, sampling: Sampling, start: int, stop: int, *, stream: bool = False) -> bytes:
    fields = asdict(sampling) | {"vectors": vectors.encode(start, stop), "stream": stream}
    if start and sampling.seed is not None:
        # The server derives a sample's seed from this one plus the index in the request, which starts anew.
        fields["seed"] = (sampling.seed + start) % SEEDS
    return as_json(fields)


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
