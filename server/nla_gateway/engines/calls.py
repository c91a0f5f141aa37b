"""Many texts in few calls of an engine: how many go in one, and fewer while somebody else waits for a small one."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from nla_client.wire import Usage, add_usage
from nla_gateway.engines.concurrency import Owner, gather
from nla_gateway.engines.pool import EnginePool

T = TypeVar("T")


@dataclass(frozen=True)
class CallSize:
    """How much goes in one call, at most; but one text always does."""

    texts: int
    tokens: int

    def fitting(self, lengths: Sequence[int]) -> int:
        """Tell how many of texts of so many tokens go in one call, from the first on."""
        tokens = 0
        for count, length in enumerate(lengths[: self.texts]):
            tokens += length
            if count and tokens > self.tokens:
                return count
        return min(self.texts, len(lengths))


USUAL: Final = CallSize(texts=8, tokens=8192)
"""Few texts, for a single one waits for the call that the engine is at, and fewer would cost throughput; about as many
tokens as an engine computes together."""
BESIDE_OTHERS: Final = CallSize(texts=2, tokens=1024)
"""While small requests come in."""


def parts_of(lengths: Sequence[int]) -> list[slice]:
    """Cut texts of so many tokens into calls of usual size."""
    parts, start = list[slice](), 0
    while start < len(lengths):
        parts.append(slice(start, start + USUAL.fitting(lengths[start : start + USUAL.texts])))
        start = parts[-1].stop
    return parts


async def in_calls(
    engines: EnginePool,
    owner: Owner,
    lengths: Sequence[int],
    ask: Callable[[slice], Awaitable[tuple[list[T], Usage]]],
) -> tuple[list[T], Usage]:
    """Ask engines for something of each text, in order, in calls that take a whole engine.

    Args:
        engines: those that are asked.
        owner: the request; its texts wait in one line.
        lengths: of each text, in tokens.
        ask: makes one call, about so many of the texts.
    """

    async def in_turn(part: slice) -> tuple[list[T], Usage]:
        found, used = list[T](), list[Usage]()
        while len(found) < part.stop - part.start:
            start = part.start + len(found)
            async with engines.turn(owner, whole=True):
                few = not owner.small and engines.small_come_in()
                size = (BESIDE_OTHERS if few else USUAL).fitting(lengths[start : part.stop])
                answers, usage = await ask(slice(start, start + size))
            found += answers
            used.append(usage)
        return found, add_usage(used)

    answers = await gather(in_turn(part) for part in parts_of(lengths))
    return [answer for found, _ in answers for answer in found], add_usage([usage for _, usage in answers])
