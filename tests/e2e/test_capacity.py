"""Engines whose KV pools are smaller than planned: said in the log and at `/v1/info`, and served as far as they go."""

import re
from collections.abc import Iterator

import numpy as np
import pytest
import yaml

from tests.checkpoints import D_MODEL, make_pair
from tests.errors import error_in
from tests.plain import verbalize, wait_for
from tests.stack import Stack, serving

POOLS = {"av": 100, "ar": 128}
"""Tokens: of the verbalizer's running requests two at least must fit, 50 of 64."""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("capacity")
    pair = make_pair(folder, "qwen2")
    arguments = {role: ["--max-total-tokens", str(tokens)] for role, tokens in POOLS.items()}
    preset = {"name": "small", "av": str(pair.av), "ar": str(pair.ar), "device": "cpu", "engine_args": arguments}
    (folder / "small.yaml").write_text(yaml.safe_dump(preset))
    with serving(folder / "log", "--preset", str(folder / "small.yaml")) as stack:
        yield stack


def test_what_is_lower_is_said_at_info(small: Stack) -> None:
    engines = {engine["engine"]: engine for engine in small.http.get("/v1/info").json()["engines"]}
    av, ar = engines["verbalizer"], engines["reconstructor"]
    assert (av["pool_tokens"], av["planned_pool_tokens"]) == (100, 32_768)
    assert (av["running_requests"], av["planned_running_requests"]) == (50, 64)
    assert (ar["pool_tokens"], ar["planned_pool_tokens"]) == (128, 16_384)
    assert ar["running_requests"] == ar["planned_running_requests"] == 64
    assert "its KV pool has 100 tokens, planned were 32768, and it computes 50 requests" in av["warning"]
    assert "requests at the same time" not in ar["warning"]


def test_and_once_in_the_log_with_the_mend(small: Stack) -> None:
    for label in ("verbalizer", "reconstructor"):
        said = re.compile(rf"WARNING the {label} is smaller than planned: .*--concurrency")
        wait_for(lambda of=said: of.search(small.log_text()) is not None)  # type: ignore[misc]
        assert len(said.findall(small.log_text())) == 1


def test_more_samples_than_fit_are_answered_one_after_the_other(small: Stack) -> None:
    vectors = np.random.default_rng(0).standard_normal((6, D_MODEL)).astype(np.float32)
    assert len(verbalize(small, vectors, max_tokens=20)["results"]) == 6


def test_a_text_that_would_wait_for_ever_is_refused(small: Stack) -> None:
    limit = small.http.get("/v1/info").json()["limits"]["max_text_tokens"]
    assert 100 < limit < 128
    longest = 0
    for count in range(limit - 4, limit + 2):
        reply = small.http.post("/reconstruct", json={"texts": [" ".join(["the"] * count)]})
        if reply.status_code == 400:
            assert f"at most {limit}" in error_in(reply).message
            break
        longest = reply.json()["usage"]["prompt_tokens"]
    assert reply.status_code == 400
    assert longest == POOLS["ar"] - 2
