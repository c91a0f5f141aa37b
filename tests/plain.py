"""Talking to a stack as plainly as can be: no client of ours, no codec of ours."""

import base64
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.stack import Stack


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
