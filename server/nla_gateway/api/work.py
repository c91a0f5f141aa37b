"""What the calls have in common: whom their work belongs to, how long it may take, how much of it there may be."""

import uuid
from collections.abc import Coroutine
from typing import Any, TypeVar

from nla_gateway.callers import exchange
from nla_gateway.engines.concurrency import Owner
from nla_gateway.errors import PayloadTooLarge
from nla_gateway.served import ServedPair

T = TypeVar("T")


def owner_of(request_id: str, items: int) -> Owner:
    """Name a request within the gateway and the engines.

    Callers may use one request id twice, and none of theirs may begin an engine's: SGLang takes some for its own.
    """
    return Owner(f"nla.{uuid.uuid4().hex[:8]}.{request_id}", items, exchange().caller)


async def within(pair: ServedPair, work: Coroutine[Any, Any, T]) -> T:
    """Run work for as long as a request may take.

    Raises:
        RequestTimeout: it took longer, and was cancelled.
        EngineUnavailable: the gateway stopped meanwhile.
    """
    async with pair.deadlines.within():
        return await work


def check_batch(pair: ServedPair, count: int, param: str) -> None:
    """Raise PayloadTooLarge for a batch over the limit."""
    if count > pair.limits.max_batch:
        message = f"{count} {param} in one request; at most {pair.limits.max_batch}: send several requests"
        raise PayloadTooLarge(message, param=param)
