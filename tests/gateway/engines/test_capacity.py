"""What an engine made of its plan, by its own account."""

from pathlib import Path
from typing import Any

import pytest

from nla_gateway.engines.capacity import Capacity, engine_info, shortfall
from nla_gateway.settings import EngineSettings

PLANNED = EngineSettings(
    urls=("http://127.0.0.1:9",), api_key="k", checkpoint=Path(), model="m", dtype="bfloat16", context_length=512,
    pool_tokens=1000, running_requests=64, max_in_flight=72, shared_in_flight=8,
)  # fmt: skip


def said(*replicas: tuple[int, int], page_size: int | None = 1) -> dict[str, Any]:
    """SGLang's `/server_info` of replicas with so many tokens and requests each."""
    return {
        "internal_states": [
            {
                "memory_usage": {"token_capacity": tokens},
                "effective_max_running_requests_per_dp": requests,
                "page_size": page_size,
            }
            for tokens, requests in replicas
        ]
    }


@pytest.mark.parametrize("page_size", [None, 1])
def test_as_planned_or_more(page_size: int | None) -> None:
    for tokens, requests in ((1000, 64), (2000, 64), (1000, 100)):
        assert shortfall("verbalizer", Capacity.read(said((tokens, requests), page_size=page_size)), PLANNED) is None


def test_pages_that_are_not_filled_are_no_shortfall() -> None:
    assert shortfall("verbalizer", Capacity.read(said((960, 64), page_size=64)), PLANNED) is None
    assert shortfall("verbalizer", Capacity.read(said((896, 64), page_size=64)), PLANNED) is not None


def test_lower_figures_are_named_with_what_follows_and_the_mend() -> None:
    told = shortfall("verbalizer 2", Capacity.read(said((100, 50))), PLANNED)
    assert told is not None
    assert "the verbalizer 2 is smaller than planned" in told
    assert "its KV pool has 100 tokens, planned were 1000" in told
    assert "it computes 50 requests at the same time, planned were 64" in told
    assert "long prompts wait" in told
    assert "--concurrency" in told
    assert "replica" not in told
    only_requests = shortfall("verbalizer", Capacity.read(said((1000, 50))), PLANNED)
    assert only_requests is not None
    assert "KV pool" not in only_requests


def test_of_replicas_the_least_counts() -> None:
    told = shortfall(
        "verbalizer", Capacity.read(said((1000, 64), (999, 60))), PLANNED.model_copy(update={"replicas": 2})
    )
    assert told is not None
    assert "999 tokens" in told
    assert "60 requests" in told
    assert "in each replica" in told


@pytest.mark.parametrize("info", [{}, {"internal_states": []}, {"internal_states": [{}]}, {"internal_states": [{
    "memory_usage": None}]}])  # fmt: skip
def test_an_engine_that_does_not_say(info: dict[str, Any]) -> None:
    assert Capacity.read(info) is None
    assert shortfall("verbalizer", None, PLANNED) is None
    shown = engine_info("verbalizer", None, PLANNED)
    assert (shown.pool_tokens, shown.planned_pool_tokens, shown.running_requests) == (None, 1000, None)
    assert (shown.planned_running_requests, shown.warning) == (64, None)


def test_what_was_not_planned_here_is_not_compared() -> None:
    elsewhere = PLANNED.model_copy(update={"pool_tokens": None, "running_requests": None})
    shown = engine_info("verbalizer", Capacity.read(said((1, 1))), elsewhere)
    assert (shown.pool_tokens, shown.planned_pool_tokens, shown.warning) == (1, None, None)
