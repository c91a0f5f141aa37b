"""What a live stack shows at /metrics: ours, the engines' own, and all that the dashboard asks for."""

import re
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import promql_parser as promql
import pytest
from numpy.typing import NDArray
from prometheus_client.samples import Sample

from nla_gateway.settings import Settings
from tests.docker.dashboard import Query, queries, query_of, rules
from tests.plain import LONG, ask_engine, encode, samples_of, total, verbalize, wait_for
from tests.stack import Stack

ENGINES = ("verbalizer", "reconstructor")
OF_JOB = {"instance", "job"}
"""Labels that Prometheus adds to whatever it scrapes."""


@pytest.fixture(scope="module")
def used(toy: Stack, toy_vectors: NDArray[np.float32]) -> dict[str, list[Sample]]:
    """What is shown after every kind of request, one of them refused and one left."""
    body = {"vectors": [encode(vector) for vector in toy_vectors[:2]], "dtype": "float32"}
    verbalize(toy, toy_vectors[:3], n=2, score=True)
    toy.http.post("/verbalize", json={**body, "stream": True}).raise_for_status()
    toy.http.post("/reconstruct", json={"texts": ["a", "b"]}).raise_for_status()
    toy.http.post("/critic", json={**body, "texts": ["a", "b"]}).raise_for_status()
    toy.http.post("/critic", json={**body, "texts": "a", "pairs": "all"}).raise_for_status()
    toy.http.post("/ablate", json={**body, "texts": ["a", "b"]}).raise_for_status()
    toy.http.post("/verbalize", json={**body, "n": 0})
    with pytest.raises(httpx.ReadTimeout):
        toy.http.post("/verbalize", json={**body, **LONG}, timeout=1.5)
    asked = (*queries(), *(query_of(rule["expr"]) for rule in rules()))
    names = {selector.name for query in asked for selector in query.selectors} - {"up"}
    found = samples_of(toy)
    deadline = time.monotonic() + 30
    # The engines write some of theirs a moment later, and one that is late is left out.
    while time.monotonic() < deadline and not (
        names <= found.keys() and all(total(found, "sglang:prompt_tokens_total", engine=one) for one in ENGINES)
    ):
        time.sleep(0.2)
        found = samples_of(toy)
    return found


def test_what_was_done_is_counted(toy: Stack, toy_vectors: NDArray[np.float32]) -> None:
    before = samples_of(toy)
    answer = verbalize(toy, toy_vectors[:3], n=2, score=True)
    verbalize(toy, toy_vectors[:1], max_tokens=3)
    usage = toy.http.post("/reconstruct", json={"texts": ["a", "b"]}).json()["usage"]
    after = samples_of(toy)

    def grown(name: str, **labels: str) -> float:
        return total(after, name, **labels) - total(before, name, **labels)

    assert grown("nla_vectors_total", endpoint="/verbalize") == 4
    assert grown("nla_vectors_total", endpoint="/reconstruct") == 2
    assert grown("nla_samples_total", complete="true") == 6
    assert grown("nla_samples_total", complete="false") == 1
    assert grown("nla_request_seconds_count", endpoint="/verbalize") == 2
    assert grown("nla_tokens_total", engine="verbalizer", kind="completion") == answer["usage"]["completion_tokens"] + 3
    assert grown("nla_tokens_total", engine="reconstructor", kind="prompt") > usage["prompt_tokens"]
    scored = [sample["score"]["fve"] for result in answer["results"] for sample in result["samples"]]
    mean = 1 - grown("nla_unexplained_sum") / grown("nla_unexplained_count")
    assert mean == pytest.approx(np.mean(scored), abs=1e-6)


def test_requests_in_flight(toy: Stack, toy_vectors: NDArray[np.float32]) -> None:
    assert total(samples_of(toy), "nla_requests_in_flight") == 0
    thread = threading.Thread(target=lambda: verbalize(toy, toy_vectors[:1], n=2, **LONG))
    thread.start()
    try:
        while (total(found := samples_of(toy), "nla_requests_in_flight"), total(found, "nla_queue")) != (1, 2):
            assert thread.is_alive()
    finally:
        thread.join()
    assert total(samples_of(toy), "nla_requests_in_flight") == 0


def test_the_engines_own_metrics_say_whose_they_are(used: dict[str, list[Sample]]) -> None:
    for name, found in used.items():
        if name.startswith("sglang:"):
            assert {sample.labels["engine"] for sample in found} <= {"verbalizer", "reconstructor"}
    for engine in ENGINES:
        assert total(used, "sglang:prompt_tokens_total", engine=engine) > 0
        assert total(used, "nla_engine_state", engine=engine, state="ready") == 1
        assert total(used, "nla_engine_restarts", engine=engine) == 0
    assert total(used, "sglang:generation_tokens_total", engine="reconstructor") == 0


@pytest.mark.parametrize("query", queries(), ids=lambda query: query.expression)
def test_the_dashboard_asks_for_what_is_there(used: dict[str, list[Sample]], query: Query) -> None:
    for selector in query.selectors:
        found = used.get(selector.name)
        assert found, f"no metric {selector.name}"
        for label in query.labels:
            assert all(label in sample.labels for sample in found), f"{selector.name} has no label {label}"
        assert any(matches(sample, selector) for sample in found), f"no sample of {selector.prettify()}"


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_the_alerts_ask_for_what_is_there(used: dict[str, list[Sample]], rule: dict[str, Any]) -> None:
    """By names and labels: what they wait for has not happened here."""
    for selector in query_of(rule["expr"]).selectors:
        if selector.name == "up":  # Prometheus's own
            continue
        found = used.get(selector.name)
        assert found, f"no metric {selector.name}"
        wanted = {matcher.name for matcher in selector.matchers.matchers} | set(query_of(rule["expr"]).labels) - OF_JOB
        assert all(wanted <= sample.labels.keys() for sample in found)
        calm = [it for it in selector.matchers.matchers if it.name != "status"]
        assert any(all(fits(it, sample.labels.get(it.name, "")) for it in calm) for sample in found)


def matches(sample: Sample, selector: Any) -> bool:
    return all(fits(matcher, sample.labels.get(matcher.name, "")) for matcher in selector.matchers.matchers)


def fits(matcher: Any, found: str) -> bool:
    if matcher.op in (promql.MatchOp.Re, promql.MatchOp.NotRe):
        return (re.fullmatch(matcher.value, found) is not None) == (matcher.op == promql.MatchOp.Re)
    return (found == matcher.value) == (matcher.op == promql.MatchOp.Equal)


def test_the_request_id_reaches_both_engines(
    toy: Stack, toy_settings: Settings, toy_vectors: NDArray[np.float32], tmp_path: Path
) -> None:
    """SGLang can write down what it was asked: there the ids are."""
    engines = toy_settings.pairs[0].engines
    folders = {role: tmp_path / role.label for role in engines}
    try:
        for role, engine in engines.items():
            folders[role].mkdir()
            ask_engine(engine, "/configure_logging",
                       {"dump_requests_folder": str(folders[role]), "dump_requests_threshold": 1})  # fmt: skip
        body = {"vectors": encode(toy_vectors[0]), "dtype": "float32", "score": True}
        toy.http.post("/verbalize", json=body, headers={"x-request-id": "mine-4711"}).raise_for_status()
        for folder in folders.values():
            wait_for(lambda of=folder: any(b"mine-4711." in file.read_bytes() for file in of.iterdir()))  # type: ignore[misc]
    finally:
        for engine in engines.values():
            ask_engine(engine, "/configure_logging", {"dump_requests_folder": ""})
