"""One piece of work: which of its rows can be sent, and how the answers, and rows that are refused, come together.

A row that is refused, or that fails again and again, gets its reason; its neighbours are sent without it.
"""

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from nla_client import AsyncNLAClient, AsyncNLACritic, InvalidRequestError, InvalidVectorError, PayloadTooLargeError
from nla_client.results import NO_USAGE
from nla_client.wire import Usage, add_usage
from nla_data.asking.totals import Totals
from nla_data.reading.source import Piece

T = TypeVar("T")
_PARAM: Final = re.compile(r"(?:vectors|texts)\[(\d+)\]")


class RepeatedFailureError(Exception):
    """The server failed at one request again and again, while it answers others."""


@dataclass(frozen=True)
class Clients:
    """Both clients of one gateway."""

    nla: AsyncNLAClient
    critic: AsyncNLACritic


class Call(Protocol):
    """Makes a request at some gateway, and again until it is answered.

    Raises:
        InvalidRequestError: the request is at fault.
        RepeatedFailureError: the server fails at it.
        DataError: the run cannot go on.
    """

    async def __call__(self, request: Callable[[Clients], Awaitable[T]]) -> T:
        """Make it."""


@dataclass(frozen=True)
class Work:
    """The rows of a piece that can be sent, and why the others cannot.

    Attributes:
        piece: The rows.
        reasons: For each of them None, or what is wrong.
        vectors: float32 [G, d] of the good ones; [G, 0] for a task without vectors.
        texts: The texts of the good ones; empty for a task without texts.
        offset: How many good rows of the run came before.
    """

    piece: Piece
    reasons: list[str | None]
    vectors: NDArray[np.float32]
    texts: list[str]
    offset: int

    @property
    def good(self) -> int:
        """How many rows can be sent."""
        return self.reasons.count(None)


@dataclass(frozen=True)
class Done:
    """New columns for all rows of a piece (pyarrow arrays), and what is to be counted."""

    columns: list[Any]
    totals: Totals


@dataclass
class Answers(Generic[T]):
    """What came back: for each row its result or None, and for each without one the reason."""

    rows: list[T | None]
    reasons: list[str | None]
    sent: int
    """How many rows were good enough to be sent."""
    model: str = ""
    usage: Usage = NO_USAGE


@dataclass
class _Sent(Generic[T]):
    rows: list[T | None] = field(default_factory=list)
    refused: dict[int, str] = field(default_factory=dict)
    model: str = ""
    usage: Usage = NO_USAGE

    def then(self, other: "_Sent[T]") -> "_Sent[T]":
        usage = add_usage([self.usage, other.usage])
        return _Sent(self.rows + other.rows, self.refused | other.refused, self.model or other.model, usage)


async def ask(work: Work, send: Callable[[int, int], Awaitable[Any]]) -> Answers[Any]:
    """Send the good rows of a piece, `send(start, stop)` those of a range, and put each result at its row.

    What `send` returns has a result for each row, and may have `model` and `usage`.
    """
    sent = await _send_range(send, 0, work.good) if work.good else _Sent[Any]()
    places = iter(range(work.good))
    at = [next(places) if reason is None else None for reason in work.reasons]
    rows = [None if place is None else sent.rows[place] for place in at]
    reasons = [work.reasons[k] if place is None else sent.refused.get(place) for k, place in enumerate(at)]
    return Answers(rows, reasons, work.good, sent.model, sent.usage)


async def _send_range(send: Callable[[int, int], Awaitable[Any]], start: int, stop: int) -> _Sent[Any]:
    if start == stop:
        return _Sent()
    try:
        results = await send(start, stop)
        return _Sent(list(results), {}, getattr(results, "model", ""), getattr(results, "usage", NO_USAGE))
    except (InvalidRequestError, InvalidVectorError) as error:  # the second, say, of what is zero once in bfloat16
        match = _PARAM.fullmatch(error.param or "")
        if not match or int(match[1]) >= stop - start:
            raise
        # The place is one in the request, which nobody knows.
        bad, why = start + int(match[1]), error.message.removeprefix(match[0]).lstrip(": ")
    except (RepeatedFailureError, PayloadTooLargeError) as error:
        middle = (start + stop) // 2
        if stop - start > 1:
            return (await _send_range(send, start, middle)).then(await _send_range(send, middle, stop))
        bad, why = start, str(error)
    before, after = await _send_range(send, start, bad), await _send_range(send, bad + 1, stop)
    return before.then(_Sent([None], {bad: why})).then(after)
