"""The endpoints of an NLA pair, as pure values: what to send and how to read the answer. No I/O.

Those that begin with a text are in `texts`.
"""

from collections.abc import Callable, Sequence
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from nla_client.calls import replies
from nla_client.calls.base import SEEDS, Batch, Call, Sampling, as_json, items_per_request, ranges, split
from nla_client.calls.replies import Block
from nla_client.errors import InvalidArgumentError
from nla_client.results.ablated import Ablations
from nla_client.results.verbalized import Scores, Verbalizations
from nla_client.vectors import Vectors, check_dtype
from nla_client.wire import PartKind, VectorDType

T = TypeVar("T")

MATRIX_VECTORS: Final = 512
"""Vectors in one request that scores every text against every vector; where the server takes fewer, it is halved."""
ABLATED_TEXTS: Final = 8
"""How many texts, roughly, the parts of one make."""


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


def _verbalize_body(vectors: Vectors, sampling: Sampling, start: int, stop: int, *, stream: bool = False) -> bytes:
    fields = sampling.as_fields() | {"vectors": vectors.encode(start, stop), "stream": stream}
    if start and sampling.seed is not None:
        # The server derives a sample's seed from this one plus the index in the request, which starts anew.
        fields["seed"] = (sampling.seed + start) % SEEDS
    return as_json(fields)


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


def ablate(texts: Sequence[str], vectors: Vectors, by: PartKind, batch_size: int) -> Batch[Ablations]:
    """`POST /ablate`, as many as it takes: a text is many texts there."""
    size = max(1, batch_size // ABLATED_TEXTS)

    def build(start: int, stop: int) -> Call[list[Ablations]]:
        some = texts[start:stop]
        fields = {"texts": some, "vectors": vectors.encode(start, stop), "dtype": vectors.dtype, "by": by}
        return Call("POST", "/ablate", as_json(fields), lambda reply: [replies.ablations(reply, some)], start)

    return split(vectors.count, size, build)
