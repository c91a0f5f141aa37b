"""What the app is made of, built once from the settings: the pairs, and what they share."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final

from nla_gateway.deadlines import Deadlines
from nla_gateway.engines.concurrency import Admission
from nla_gateway.errors import NotFound
from nla_gateway.limits import GatewayLimits
from nla_gateway.served import ServedPair, Shared, open_pair
from nla_gateway.settings import Settings
from nla_gateway.telemetry.metrics import Metrics
from nla_gateway.telemetry.tracing import Tracing

LONGEST_SHOWN: Final = 100
"""Characters of a name that errors repeat."""


@dataclass
class Gateway:
    """All pairs."""

    pairs: list[ServedPair]
    """In the order of the settings."""
    shared: Shared
    started: int
    """When nla-serve was, in seconds since 1970."""

    @property
    def limits(self) -> GatewayLimits:
        """Limits that all pairs have in common."""
        return self.shared.limits

    @property
    def metrics(self) -> Metrics:
        """What is counted."""
        return self.shared.metrics

    def pair(self, model: str | None) -> ServedPair:
        """Choose the pair for a request.

        Args:
            model: its name; None: the first.

        Raises:
            NotFound: none has that name.
        """
        found = next((pair for pair in self.pairs if model in (None, pair.name)), None)
        if found is None:
            names, asked = ", ".join(pair.name for pair in self.pairs), (model or "")[:LONGEST_SHOWN]
            raise NotFound(f"no pair {asked!r} is served here: `model` may be {names}", param="model")
        return found

    def leave(self) -> None:
        """Have all requests end within the grace time, and at once those that wait for an engine: the gateway stops."""
        self.shared.deadlines.stop()
        for pair in self.pairs:
            pair.leave()


@asynccontextmanager
async def open_gateway(settings: Settings, metrics: Metrics, tracing: Tracing) -> AsyncIterator[Gateway]:
    """Load the prompts of all pairs and open the connections to their engines.

    Raises:
        CheckpointError: a checkpoint that cannot be served, or two that are no pair.
    """
    limits = settings.limits
    shared = Shared(
        limits,
        metrics,
        Admission(limits.max_queue, metrics.queue.set),
        Deadlines(limits.request_timeout_s, limits.grace_s),
        tracing,
    )
    async with AsyncExitStack() as stack:
        stack.push_async_callback(tracing.close)
        pairs = list[ServedPair]()
        for pair in settings.pairs:
            pairs.append(await stack.enter_async_context(open_pair(pair, shared)))
        yield Gateway(pairs, shared, settings.started)
