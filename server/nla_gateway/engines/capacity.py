"""What an engine made of its plan: how much fits into it at the same time, by its own account."""

from dataclasses import dataclass
from typing import Any, Self

from nla_client.wire import EngineInfo
from nla_gateway.settings import EngineSettings


@dataclass(frozen=True)
class Capacity:
    """Of each of its replicas; where they differ, the least."""

    pool_tokens: int
    """In the KV pool."""
    running_requests: int
    """That are computed at the same time."""
    page_size: int
    """Tokens by which SGLang fills a pool; it rounds down to whole pages."""

    @classmethod
    def read(cls, info: dict[str, Any]) -> Self | None:
        """Read SGLang's `/server_info`; None where it does not say."""
        try:
            states = info["internal_states"]
            return cls(
                min(int(state["memory_usage"]["token_capacity"]) for state in states),
                min(int(state["effective_max_running_requests_per_dp"]) for state in states),
                max(int(state["page_size"] or 1) for state in states),
            )
        except (KeyError, TypeError, ValueError):
            return None

    @property
    def longest_prompt(self) -> int:
        """Tokens of a prompt, at most: SGLang lets a longer one wait for ever, and all others behind it."""
        return self.pool_tokens - self.page_size - 1

    def below(self, planned: EngineSettings) -> list[str]:
        """Tell what is lower than planned."""
        lower = list[str]()
        tokens, requests = planned.pool_tokens, planned.running_requests
        if tokens is not None and self.pool_tokens < tokens - tokens % self.page_size:
            lower.append(f"its KV pool has {self.pool_tokens} tokens, planned were {tokens}")
        if requests is not None and self.running_requests < requests:
            lower.append(f"it computes {self.running_requests} requests at the same time, planned were {requests}")
        return lower


def shortfall(label: str, capacity: Capacity | None, planned: EngineSettings) -> str | None:
    """Say what an engine has less of than planned, what follows, and how to mend it; None where it has all."""
    lower = [] if capacity is None else capacity.below(planned)
    if not lower:
        return None
    each = " (in each replica)" if planned.replicas > 1 else ""
    return (
        f"the {label} is smaller than planned: {', and '.join(lower)}{each}. Fewer samples or texts run at once, and"
        " long prompts wait for room. Free memory where it runs, take what makes it smaller out of the preset's"
        " engine_args, or plan for less with --concurrency"
    )


def engine_info(label: str, capacity: Capacity | None, planned: EngineSettings) -> EngineInfo:
    """Put what an engine has beside what was planned."""
    return EngineInfo(
        engine=label,
        pool_tokens=None if capacity is None else capacity.pool_tokens,
        planned_pool_tokens=planned.pool_tokens,
        running_requests=None if capacity is None else capacity.running_requests,
        planned_running_requests=planned.running_requests,
        warning=shortfall(label, capacity, planned),
    )
