"""One demo stack for the whole session, and what tests need to look behind its gateway."""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from numpy.typing import NDArray

from nla_gateway.settings import SETTINGS_VARIABLE, Settings
from nla_launch import demo as demo_package
from tests.stack import Stack, serving


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The demo pair, served as `make demo` does."""
    with serving(tmp_path_factory.mktemp("demo") / "log", "--preset", "demo") as stack:
        yield stack


@pytest.fixture(scope="session")
def demo_settings(demo: Stack) -> Settings:
    """The settings of the demo's gateway: addresses and keys of its engines."""
    return settings_of(demo)


@pytest.fixture(scope="session")
def demo_vectors() -> NDArray[np.float32]:
    """Held-out demo vectors [64, d_model]."""
    with np.load(Path(str(demo_package.__file__)).parent / "vectors.npz") as stored:
        vectors: NDArray[np.float32] = stored["vectors"]
    return vectors


def settings_of(stack: Stack) -> Settings:
    environments = (process.environ() for process in psutil.Process(stack.process.pid).children())
    found = [environment[SETTINGS_VARIABLE] for environment in environments if SETTINGS_VARIABLE in environment]
    return Settings.model_validate_json(found[0])


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
