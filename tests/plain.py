"""Talking to a stack as plainly as can be: no client of ours, no codec of ours."""

import base64
import json
import re
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np
from numpy.typing import NDArray
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from nla_gateway.roles import Role
from nla_gateway.settings import EngineSettings
from nla_launch import toy
from tests.stack import Stack

TOY = Path(str(toy.__file__)).parent
LONG: Final = {"temperature": 50.0, "max_tokens": 900, "seed": 3}
"""Random tokens: a sample that goes on for seconds. This seed draws no end-of-text before the last token."""


def load_toy_vectors() -> NDArray[np.float32]:
    """Held-out vectors of the toy pair [64, d_model]."""
    with np.load(TOY / "vectors.npz") as stored:
        vectors: NDArray[np.float32] = stored["vectors"]
    return vectors


def verbalizer_of(stack: Stack) -> EngineSettings:
    return stack.settings().pairs[0].engines[Role.AV]


def ask_engine(
    engine: EngineSettings, path: str, body: dict[str, Any] | None = None, *, method: str = "POST", timeout: float = 60
) -> httpx.Response:
    """Ask an engine itself, past the gateway."""
    url, headers = f"{engine.urls[0]}{path}", {"authorization": f"Bearer {engine.api_key}"}
    reply = httpx.request(method, url, json=body, headers=headers, timeout=timeout, trust_env=False)
    return reply.raise_for_status()


def flush_cache(engine: EngineSettings) -> None:
    """Empty an engine's prefix cache, once it is idle: its answers are out before its batch is put away."""
    ask_engine(engine, "/flush_cache?timeout=30")


def running(engine: EngineSettings, *, timeout: float = 60) -> int:
    """Requests at an engine, by its own count."""
    loads = ask_engine(engine, "/v1/loads", method="GET", timeout=timeout).json()["loads"]
    return sum(load["num_running_reqs"] + load["num_waiting_reqs"] for load in loads)


def encode(vector: NDArray[np.float32]) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()


def decode(data: str) -> NDArray[np.float32]:
    return np.frombuffer(base64.b64decode(data), "<f4")


def verbalize(stack: Stack, vectors: NDArray[np.float32], **arguments: Any) -> dict[str, Any]:
    """Greedy by default, float32 on the wire."""
    body = {"vectors": [encode(v) for v in vectors], "dtype": "float32", "temperature": 0, **arguments}
    reply = stack.http.post("/verbalize", json=body)
    assert reply.status_code == 200, reply.text
    answer: dict[str, Any] = reply.json()
    return answer


def extract(stack: Stack, **body: Any) -> list[dict[str, Any]]:
    """Results of `/extract`, each with `vectors`, float32 [n, d]."""
    reply = stack.http.post("/extract", json={"dtype": "float32", **body})
    assert reply.status_code == 200, reply.text
    results: list[dict[str, Any]] = reply.json()["results"]
    for result in results:
        result["vectors"] = np.stack([decode(token["vector"]) for token in result["tokens"]])
    return results


def texts_of(answer: dict[str, Any]) -> list[str]:
    return [result["samples"][0]["text"] for result in answer["results"]]


def events_of(body: str) -> list[tuple[str, Any]]:
    """Server-sent events: their names, and their data parsed."""
    events = []
    for block in body.strip().split("\n\n"):
        if block.startswith(":"):  # a comment, sent where nothing comes for long
            continue
        name, data = block.split("\n", 1)
        assert name.startswith("event: ")
        assert data.startswith("data: ")
        events.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return events


def wait_for(there: Callable[[], bool], within_s: float = 60) -> None:
    """Wait until something is so, on however slow a machine."""
    deadline = time.monotonic() + within_s
    while not there():
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(0.05)


def samples_of(stack: Stack) -> dict[str, list[Sample]]:
    """What a stack shows at /metrics: samples by name, parsed as Prometheus would."""
    found = defaultdict(list)
    text = stack.http.get("/metrics").text
    headers = re.findall(r"^# TYPE (\S+)", text, re.MULTILINE)
    assert len(headers) == len(set(headers))
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[sample.name].append(sample)
    return found


def total(found: dict[str, list[Sample]], name: str, **labels: str) -> float:
    """The sum of those with these labels; 0 where there are none."""
    return sum(sample.value for sample in found.get(name, ()) if labels.items() <= sample.labels.items())


def of_engine(stack: Stack, engine: str, name: str) -> float:
    """What an engine counts itself, once it is told: /metrics leaves out engines that are late."""
    found: dict[str, list[Sample]] = {}

    def is_told() -> bool:
        found.update(samples_of(stack))
        return total(found, "sglang:num_requests_total", engine=engine) > 0

    wait_for(is_told)
    return total(found, f"sglang:{name}_total", engine=engine)


def queue_of(stack: Stack) -> float:
    """Samples and texts that the gateway, the only one, has accepted and not yet answered."""
    (queue,) = samples_of(stack)["nla_queue"]
    return queue.value


def assert_rebuilt(stack: Stack, texts: Sequence[str], wanted: Callable[[str], NDArray[np.float32]]) -> None:
    """The vectors [d] of texts are those that are wanted, to a ten-thousandth of their length."""
    reply = stack.http.post("/reconstruct", json={"texts": list(texts), "dtype": "float32"}).json()
    for text, data in zip(texts, reply["vectors"], strict=True):
        vector = wanted(text)
        assert np.linalg.norm(decode(data) - vector) <= 1e-4 * np.linalg.norm(vector)
