"""Texts and vectors as a user gives them, and whether they go together. Pure."""

from collections.abc import Sequence
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from nla_client.errors import InvalidArgumentError
from nla_client.results.verbalized import Verbalization
from nla_client.vectors import Matrix, Vector, Vectors
from nla_client.wire import Sample

OneText = str | Verbalization | Sample
"""What is one text."""


class Column(Protocol):
    """A column of texts, of numpy, pandas or pyarrow."""

    def __array__(self) -> NDArray[Any]: ...


ManyTexts = list[str] | tuple[str, ...] | Sequence[Verbalization] | Sequence[Sample] | Column
"""What is several texts."""


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
