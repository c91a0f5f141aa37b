"""Texts on their way to the source model: how they are formed, how large they are, which go in one request. Pure."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from nla_client.calls.sources import Form
from nla_data.reading import texts
from nla_data.reading.source import Piece

PIECE_BYTES: Final = 8 * 2**20
"""About what all results of a piece hold."""
REQUEST_TOKENS: Final = 16_384
"""About how many tokens of texts go in one request; a longer text goes alone."""
TOKEN_BYTES: Final = 3
"""Of a text, rather too few: how many a token has is known only to its tokenizer."""


@dataclass(frozen=True)
class Passage:
    """One text on its way to the source model.

    Attributes:
        number: Its row's number over all input files.
        form: What the contract calls what it is sent as.
        item: As it is sent.
        size: Its tokens, as many as may be guessed.
        positions: Where it is read, ascending; None for as it was asked for, which the server works out.
        truncated: Whether it was cut to the source's context.
    """

    number: int
    form: Form
    item: Any
    size: int
    positions: list[int] | None = None
    truncated: bool = False

    @property
    def count(self) -> int:
        """Its positions, as far as they are known."""
        return len(self.positions or ())

    @property
    def share(self) -> float:
        """Of a request, by its tokens."""
        return self.size / REQUEST_TOKENS


def of_piece(piece: Piece, name: str) -> tuple[list[Passage], list[str | None]]:
    """The texts in a piece's column that can be sent, and for each row None or why its text cannot."""
    column = piece.table.column(name)
    checked = texts.read(column, name)
    good = [k for k, reason in enumerate(checked.reasons) if reason is None]
    sizes = texts.sizes(column, name) // (4 if checked.form == "token_ids" else TOKEN_BYTES)
    passages = [
        Passage(int(piece.numbers[k]), checked.form, item, int(sizes[k]) + 1)
        for k, item in zip(good, checked.items, strict=True)
    ]
    return passages, checked.reasons


def weights(name: str, count: int | None, context: int | None, each: int, batch: Any) -> NDArray[np.float64]:
    """How much of a piece the results of each row take, [N]: a position has its own, and the text before it.

    Args:
        name: The column of texts.
        count: Positions of a text at most; None for all of its tokens.
        context: Tokens that the source takes of a text; None where that is not known.
        each: Bytes of a position's results.
        batch: The rows, a pyarrow.RecordBatch.
    """
    sizes = texts.sizes(batch.column(name), name)
    tokens = np.minimum(sizes // TOKEN_BYTES + 1, context or np.inf)
    positions = tokens if count is None else np.minimum(tokens, count)
    found: NDArray[np.float64] = (positions * (each + sizes) + sizes) / PIECE_BYTES
    return found


def cut(shares: Sequence[float], kinds: Sequence[Hashable], most: int) -> list[range]:
    """Requests for what follows one another: of one kind, at most so many, and of shares that sum up to 1 at most."""
    found, start, held = list[range](), 0, 0.0
    for stop, (share, kind) in enumerate(zip(shares, kinds, strict=True)):
        if stop > start and (held + share > 1 or stop - start == most or kind != kinds[start]):
            found.append(range(start, stop))
            start, held = stop, 0.0
        held += share
    return [*found, range(start, len(shares))] if shares else []
