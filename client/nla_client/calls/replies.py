"""Bodies of successful answers, read and checked against what was asked. Pure.

Every function raises InvalidResponseError for a body that does not fit the contract.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from nla_client.errors import InvalidResponseError
from nla_client.results.ablated import Ablation, Ablations, ScoreMatrix
from nla_client.results.explained import Explanation, Explanations, Extraction, Extractions, Tokenization
from nla_client.results.verbalized import Scores, Verbalization, Verbalizations
from nla_client.vectors import Matrix
from nla_client.wire import (
    AblateResponse,
    CriticMatrix,
    CriticResponse,
    ExplainResponse,
    ExtractedToken,
    ExtractResponse,
    ReadToken,
    ReconstructResponse,
    Score,
    TokenizeResponse,
    Usage,
    VerbalizeResponse,
    add_usage,
    decode_vector,
)

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


@dataclass(frozen=True, slots=True)
class Block:
    """Scores of some texts against some vectors, [texts, vectors] each, and where they stand in the whole matrix."""

    rows: range
    columns: range
    mse: NDArray[np.float64]
    cosine: NDArray[np.float64]
    fve: NDArray[np.float64] | None
    model: str
    usage: Usage


def block(reply: bytes, rows: range, columns: range) -> Block:
    """Answer of `/critic` with pairs="all" to some texts and some vectors."""
    response = model(CriticMatrix, reply)
    named = {"mse": response.mse, "cosine": response.cosine, "fve": response.fve}
    for name, values in named.items():
        if values is not None and [len(row) for row in values] != [len(columns)] * len(rows):
            raise InvalidResponseError(f"the answer's {name} is not of {len(rows)} texts by {len(columns)} vectors")
    mse, cosine = np.array(response.mse), np.array(response.cosine)
    fve = None if response.fve is None else np.array(response.fve)
    return Block(rows, columns, mse, cosine, fve, response.model, response.usage)


def matrix(blocks: Sequence[Block], texts: int, vectors: int) -> ScoreMatrix:
    """Put the blocks of a matrix together."""
    mse, cosine, fve = (np.zeros((texts, vectors)) for _ in range(3))
    has_fve = bool(blocks) and all(part.fve is not None for part in blocks)
    for part in blocks:
        place = np.ix_(part.rows, part.columns)
        mse[place], cosine[place] = part.mse, part.cosine
        if part.fve is not None:
            fve[place] = part.fve
    name = blocks[0].model if blocks else ""
    return ScoreMatrix(mse, cosine, fve if has_fve else None, name, add_usage([part.usage for part in blocks]))


def ablations(reply: bytes, texts: Sequence[str]) -> Ablations:
    """Answer of `/ablate` to these texts."""
    response = model(AblateResponse, reply)
    _check_order([result.index for result in response.results], len(texts))
    told = (
        Ablation(text, result.score, result.empty, tuple(result.parts))
        for text, result in zip(texts, response.results, strict=True)
    )
    return Ablations(told, response.model, response.usage)


def tokenizations(reply: bytes, count: int) -> list[Tokenization]:
    """Answer of `/tokenize` to `count` texts."""
    response = model(TokenizeResponse, reply)
    _check_order([result.index for result in response.results], count)
    return [Tokenization(result.text, tuple(result.tokens), response.model) for result in response.results]


def extractions(reply: bytes, count: int) -> Extractions:
    """Answer of `/extract` to `count` texts."""
    response = model(ExtractResponse, reply)
    _check_order([result.index for result in response.results], count)
    try:
        read = [
            Extraction(
                result.text,
                tuple(ReadToken.model_validate(token.model_dump(exclude={"vector"})) for token in result.tokens),
                _vectors(result.tokens, response),
                response.layer,
                response.model,
            )
            for result in response.results
        ]
    except ValueError as error:
        raise InvalidResponseError(f"the answer has a vector that cannot be read: {error}") from error
    return Extractions(read, response.model, response.usage)


def _vectors(tokens: Sequence[ExtractedToken], response: ExtractResponse) -> Matrix:
    rows = [decode_vector(token.vector, response.dtype, response.d_model) for token in tokens]
    return cast(Matrix, np.stack(rows) if rows else np.empty((0, response.d_model), np.float32))


Piece = tuple[int, Explanation]
"""What was told of some or all chosen tokens of the text of that index."""


@dataclass(frozen=True, slots=True)
class Explained:
    """Answer to one of several requests: what was told of some texts, of the first and the last perhaps in part."""

    pieces: list[Piece]
    model: str
    usage: Usage


def explained(reply: bytes, indices: Sequence[int]) -> Explained:
    """Answer of `/explain` to the texts of these indices in the caller's batch."""
    response = model(ExplainResponse, reply)
    results = response.results
    _check_order([result.index for result in results], len(indices))
    if not all(token.samples for result in results for token in result.tokens):
        raise InvalidResponseError("the answer has a token without samples")
    told = (
        Explanation(result.text, tuple(result.tokens), response.layer, response.model, response.source)
        for result in results
    )
    return Explained(list(zip(indices, told, strict=True)), response.model, response.usage)


def explanations(parts: Sequence[Explained]) -> Explanations:
    """Put the answers to several requests together, in order: a text's pieces become one again."""
    pieces: Iterator[Piece] = (piece for part in parts for piece in part.pieces)
    told = [_joined(one for _, one in group) for _, group in groupby(pieces, key=lambda piece: piece[0])]
    return Explanations(told, parts[0].model if parts else "", add_usage([part.usage for part in parts]))


def _joined(pieces: Iterable[Explanation]) -> Explanation:
    first, *others = pieces
    tokens = (token for one in (first, *others) for token in one.tokens)
    return Explanation(first.text, tuple(tokens), first.layer, first.model, first.source)
