"""Talking to a stack as plainly as can be: no client of ours, no codec of ours."""

import base64
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

from nla_gateway.settings import EngineSettings
from nla_launch import demo
from tests.stack import Stack

DEMO = Path(str(demo.__file__)).parent


def load_demo_vectors() -> NDArray[np.float32]:
    """Held-out demo vectors [64, d_model]."""
    with np.load(DEMO / "vectors.npz") as stored:
        vectors: NDArray[np.float32] = stored["vectors"]
    return vectors


def verbalizer_of(stack: Stack) -> EngineSettings:
    engine = stack.settings().verbalizer
    assert engine is not None
    return engine


def ask_engine(
    engine: EngineSettings, path: str, body: dict[str, Any] | None = None, *, method: str = "POST"
) -> httpx.Response:
    """Ask an engine itself, past the gateway."""
    headers = {"authorization": f"Bearer {engine.api_key}"}
    reply = httpx.request(method, f"{engine.urls[0]}{path}", json=body, headers=headers, timeout=60, trust_env=False)
    return reply.raise_for_status()


def flush_cache(engine: EngineSettings) -> None:
    """Empty an engine's prefix cache."""
    ask_engine(engine, "/flush_cache")


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


def texts_of(answer: dict[str, Any]) -> list[str]:
    return [result["samples"][0]["text"] for result in answer["results"]]
