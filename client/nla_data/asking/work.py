"""One piece of work: which of its rows can be sent, and how the answers, and rows that are refused, come together.

A row that is refused, or that fails again and again, gets its reason; its neighbours are sent without it.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from nla_client import AsyncNLAClient, AsyncNLACritic, InvalidRequestError, InvalidVectorError, PayloadTooLargeError
from nla_client.calls.base import SEEDS
from nla_client.results.base import NO_USAGE
from nla_client.wire import Usage, add_usage
from nla_data.asking.passages import Passage
from nla_data.asking.totals import Totals
from nla_data.reading.source import Piece

T = TypeVar("T")
_PARAM: Final = re.compile(r"(?:(?:vectors|texts)\[(\d+)\]|(?:chats|token_ids|positions)\[(\d+)\].*)")
_ANYWHERE: Final = "positions"
"""What is said of a request's texts together: one of them is meant."""


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
        offset: How many seeds the rows of the run that came before take.
        passages: The texts for the source model of the good ones; empty for a task without such.
    """

    piece: Piece
    reasons: list[str | None]
    vectors: NDArray[np.float32]
    texts: list[str]
    offset: int = 0
    passages: list[Passage] = field(default_factory=list)

    @property
    def good(self) -> int:
        """How many rows can be sent."""
        return self.reasons.count(None)

    @property
    def seeds(self) -> int:
        """How many seeds they take: one a row, or a position, where positions are known."""
        return sum(one.count for one in self.passages) if self.passages else self.good

    def seed(self, seed: int | None, before: int) -> int:
        """What a run's seed is for a row or a position of these, by how many of them come before it."""
        return ((seed or 0) + self.offset + before) % SEEDS

    def at_rows(self, values: Iterable[T]) -> list[T | None]:
        """Values of the good rows at their places among all rows; None at the others."""
        given = iter(values)
        return [next(given) if reason is None else None for reason in self.reasons]


@dataclass(frozen=True)
class Done:
    """What has become of a piece.

    Attributes:
        columns: The new ones by name, pyarrow arrays.
        totals: What is to be counted.
        origin: Of which row of the piece each row of the output is, ascending [M]; None where they are the same.
    """

    columns: dict[str, Any]
    totals: Totals
    origin: NDArray[np.int64] | None = None


@dataclass
class Answers(Generic[T]):
    """What came back: for each row its result or None, and for each without one the reason."""

    rows: list[T | None]
    reasons: list[str | None]
    sent: int
    """How many seeds were taken."""
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


Send = Callable[[int, int], Awaitable[Any]]
"""Makes a request for the good rows of a range. The result has one for each row, and may have `model` and `usage`."""


async def ask(
    work: Work, send: Send, ranges: Sequence[range] | None = None, order: Sequence[int] | None = None
) -> Answers[Any]:
    """Send the good rows of a piece, `send(start, stop)` those of a range, and put each result at its row.

    Args:
        work: The rows.
        send: Makes a request.
        ranges: The requests, made at the same time; None for one with all rows.
        order: Which good row comes first, which next; None for as they are.
    """
    sent = _Sent[Any]()
    for part in await together(_send_range(send, it.start, it.stop) for it in ranges or [range(work.good)]):
        sent = sent.then(part)
    places = dict(zip(order, range(work.good), strict=True)) if order else range(work.good)
    at = work.at_rows(places[k] for k in range(work.good))
    rows = [None if place is None else sent.rows[place] for place in at]
    reasons = [work.reasons[k] if place is None else sent.refused.get(place) for k, place in enumerate(at)]
    return Answers(rows, reasons, work.seeds, sent.model, sent.usage)


async def together(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Do all at the same time; the first failure ends the others, and is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one) for one in work]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]


async def _send_range(send: Send, start: int, stop: int) -> _Sent[Any]:
    if start == stop:
        return _Sent()
    try:
        results = await send(start, stop)
        return _Sent(list(results), {}, getattr(results, "model", ""), getattr(results, "usage", NO_USAGE))
    except (InvalidRequestError, InvalidVectorError) as error:  # the second, say, of what is zero once in bfloat16
        match = _PARAM.fullmatch(error.param or "")
        place = int(match[1] or match[2]) if match else None
        if place is not None and place < stop - start:
            # The place is one in the request, which nobody knows.
            bad, why = start + place, error.message.removeprefix(error.param or "").lstrip(": ")
        elif error.param == _ANYWHERE:
            return await _send_halves(send, start, stop, error.message)
        else:
            raise
    except (RepeatedFailureError, PayloadTooLargeError) as error:
        return await _send_halves(send, start, stop, str(error))
    before, after = await _send_range(send, start, bad), await _send_range(send, bad + 1, stop)
    return before.then(_Sent([None], {bad: why})).then(after)


async def _send_halves(send: Send, start: int, stop: int, why: str) -> _Sent[Any]:
    """A request that failed for a row that is not known, in two; one of a single row gives its reason."""
    middle = (start + stop) // 2
    if stop - start == 1:
        return _Sent([None], {start: why.removeprefix(_ANYWHERE).lstrip(": ")})
    return (await _send_range(send, start, middle)).then(await _send_range(send, middle, stop))
