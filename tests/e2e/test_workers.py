"""Several gateways on one address and the same engines."""

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import numpy as np
from numpy.typing import NDArray

from nla_gateway.settings import COUNTERS_VARIABLE
from tests.plain import encode, of_engine, samples_of, texts_of, total, verbalize, wait_for
from tests.stack import Stack, serving

REQUESTS = 40
CALLERS = 16
A_MINUTE = 6
"""Requests that one of the callers may send."""
GATEWAYS = ("gateway 1", "gateway 2")


def asked_by(stack: Stack, caller: str) -> set[str]:
    """The gateways that a caller's requests have come to."""
    lines = [line for line in stack.log_text().splitlines() if f" {caller}" in line]
    return {gateway for gateway in GATEWAYS if any(f"{gateway} | POST /verbalize" in line for line in lines)}


def test_two_gateways_share_the_work_and_count_together(tmp_path: Path, toy_vectors: NDArray[np.float32]) -> None:
    keys = f"ada: ada-has-this\neve: {{key: eve-has-this, requests_per_minute: {A_MINUTE}}}\n"
    (tmp_path / "keys.yaml").write_text(keys)
    flags = ("--workers", "2", "--api-keys", str(tmp_path / "keys.yaml"), "--no-docs")
    (inherited := tmp_path / "inherited").mkdir()  # of another service, say, that started this one
    environment = {COUNTERS_VARIABLE: str(inherited)}
    with serving(tmp_path / "log", "--preset", "toy", "--only", "av", *flags, env=environment) as stack:
        assert stack.http.get("/v1/info").status_code == 401
        stack.http.headers["authorization"] = "Bearer ada-has-this"
        assert stack.http.get("/openapi.json").status_code == 404

        vectors = [toy_vectors[k : k + 1] for k in range(REQUESTS)]
        with ThreadPoolExecutor(CALLERS) as pool:
            apart = list(pool.map(lambda vector: texts_of(verbalize(stack, vector))[0], vectors))
        assert apart == texts_of(verbalize(stack, toy_vectors[:REQUESTS]))

        # Each on a connection of its own, which goes to the gateway that has the fewest.
        for _ in range(REQUESTS):
            info = httpx.get(f"{stack.url}/v1/info", headers=stack.http.headers, trust_env=False).json()
            assert info["limits"]["max_queue"] == 4096
        wait_for(lambda: all(f"{gateway} | POST /verbalize 200" in stack.log_text() for gateway in GATEWAYS))

        found = samples_of(stack)
        assert total(found, "nla_requests_total") >= 2 * REQUESTS + 1
        assert total(found, "nla_samples_total") == 2 * REQUESTS
        assert total(found, "nla_engine_ready") == 1
        assert total(found, "nla_queue") == 0
        assert of_engine(stack, "verbalizer", "prompt_tokens") > 0
        assert not list(inherited.iterdir())

        # What a caller may ask for a minute is one limit, whichever gateway they reach.
        body = {"vectors": encode(toy_vectors[0]), "dtype": "float32", "max_tokens": 1}
        headers, started = {"authorization": "Bearer eve-has-this"}, time.monotonic()
        statuses: list[int] = []
        with ExitStack() as open_at_once:  # so that each gateway gets some, sooner or later
            while len(statuses) < 3 * A_MINUTE or len(asked_by(stack, "eve")) < len(GATEWAYS):
                assert len(statuses) < 20 * CALLERS
                caller = open_at_once.enter_context(httpx.Client(trust_env=False, timeout=60))
                statuses.append(caller.post(f"{stack.url}/verbalize", json=body, headers=headers).status_code)
                if len(statuses) >= 3 * A_MINUTE:
                    time.sleep(0.1)  # the log comes later
        back = (time.monotonic() - started) / 60 * A_MINUTE
        assert set(statuses) == {200, 429}
        assert A_MINUTE <= statuses.count(200) <= A_MINUTE + back + 1
