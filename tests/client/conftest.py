"""A server in memory that keeps the contract, and both kinds of client before it through one face."""

import asyncio
import re
import threading
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import orjson
import pytest
from pydantic import BaseModel

from nla_client import AsyncNLAClient, AsyncNLACritic, NLAClient, NLACritic
from nla_client.wire import (
    AblateRequest,
    CriticRequest,
    ReconstructRequest,
    VerbalizeRequest,
    decode_vector,
    encode_vector,
)
from tests.client.source import USAGE, FakeSource

INFO = {
    "verbalizer": None,
    "reconstructor": None,
    "base_model": "base",
    "layer": 1,
    "d_model": 4,
    "predict_mean_mse": None,
    "limits": {
        "max_body_bytes": 1,
        "max_held_bytes": 1,
        "max_batch": 1,
        "max_n": 1,
        "max_samples": 1,
        "max_tokens": 1,
        "max_text_tokens": 1,
        "max_queue": 1,
        "request_timeout_s": 1,
        "stall_timeout_s": 1,
        "grace_s": 1,
    },
    "versions": {"nla-serve": "0"},
}


def sample(text: str, score: Any = None) -> dict[str, Any]:
    return {"text": text, "complete": True, "finish_reason": "stop", "score": score}


def scored(text: str, first: float, n: int) -> list[dict[str, Any]]:
    mses = [abs(first - k) / 10 for k in range(n)]
    return [
        sample(f"{text} sample {k}", {"mse": mse, "cosine": 1 - mse / 2, "fve": 1 - mse}) for k, mse in enumerate(mses)
    ]


class FakeServer(FakeSource):
    """Answers every request; a vector's text is its first element. `script` holds what to do first instead.

    Scored samples are told apart: of a vector that begins with k, sample k scores best.
    """

    def __init__(self) -> None:
        self.requests: list[httpx.Request] = []
        self.bodies: list[Any] = []
        self.script: list[httpx.Response | Exception] = []
        self.before: Callable[[Any], None] = lambda _body: None
        self.baseline: float | None = None
        self._lock = threading.Lock()

    def __call__(self, request: httpx.Request) -> httpx.Response:
        body = orjson.loads(request.content) if request.content else None
        with self._lock:
            self.requests.append(request)
            self.bodies.append(body)
            scripted = self.script.pop(0) if self.script else None
        self.before(body)
        if isinstance(scripted, Exception):
            raise scripted
        return scripted or getattr(self, request.url.path.strip("/").replace("/", "_"))(body)

    def verbalize(self, body: Any) -> httpx.Response:
        call = VerbalizeRequest.model_validate(body)
        firsts = [float(decode_vector(vector, call.dtype)[0]) for vector in call.vectors]
        texts = [f"{first:g} seed {call.seed}" if call.seed else f"{first:g}" for first in firsts]
        results = [
            {"index": index, "samples": scored(text, first, call.n) if call.score else [sample(text)] * call.n}
            for index, (text, first) in enumerate(zip(texts, firsts, strict=True))
        ]
        return httpx.Response(200, json={"model": "m", "results": results, "usage": USAGE})

    def reconstruct(self, body: Any) -> httpx.Response:
        call = ReconstructRequest.model_validate(body)
        vectors = [encode_vector(np.array([float(text), 1.0]), call.dtype) for text in call.texts]
        reply = {"model": "m", "dtype": call.dtype, "d_model": 2, "vectors": vectors, "usage": USAGE}
        return httpx.Response(200, json=reply)

    def critic(self, body: Any) -> httpx.Response:
        call = CriticRequest.model_validate(body)
        firsts = [float(decode_vector(vector, call.dtype)[0]) for vector in call.vectors]
        if call.pairs == "all":
            mse = [[abs(float(text) - first) for first in firsts] for text in call.texts]
            fve = None if self.baseline is None else [[1 - one / self.baseline for one in row] for row in mse]
            cosine = [[1 - one / 2 for one in row] for row in mse]
            return httpx.Response(200, json={"model": "m", "mse": mse, "cosine": cosine, "fve": fve, "usage": USAGE})
        results = [
            {"index": index, "mse": abs(float(text) - first), "cosine": 1.0, "fve": None}
            for index, (text, first) in enumerate(zip(call.texts, firsts, strict=True))
        ]
        return httpx.Response(200, json={"model": "m", "results": results, "usage": USAGE})

    def ablate(self, body: Any) -> httpx.Response:
        """Take texts apart into words, each worth its length; the whole is worth all."""
        call = AblateRequest.model_validate(body)
        results = []
        for index, text in enumerate(call.texts):
            places = [match.span() for match in re.finditer(r"\S+", text)]
            lost = sum(stop - start for start, stop in places)
            parts = [
                {
                    "text": text[start:stop],
                    "start": start,
                    "end": stop,
                    "without": self.worth(stop - start),
                    "upto": self.worth(lost - sum(b - a for a, b in places if b <= stop)),
                }
                for start, stop in places
            ]
            results.append({"index": index, "score": self.worth(0), "empty": self.worth(lost), "parts": parts})
        return httpx.Response(200, json={"model": "m", "results": results, "usage": USAGE})

    def worth(self, lost: int) -> dict[str, Any]:
        mse = lost / 10
        return {"mse": mse, "cosine": 1 - mse / 2, "fve": None if self.baseline is None else 1 - mse / self.baseline}

    def v1_info(self, _body: Any) -> httpx.Response:
        return httpx.Response(200, json=INFO)

    def v1_models(self, _body: Any) -> httpx.Response:
        more: dict[str, Any] = {"created": 1, "ready": True, "serves": ["av"], "base_model": None, "layer": 1}
        return httpx.Response(200, json={"data": [{"id": name, "d_model": 4, **more} for name in ("one", "two")]})

    def ready(self, _body: Any) -> httpx.Response:
        return httpx.Response(200, json={"ready": True})


class Face:
    """Calls a client's methods, of either kind, as plain functions; `waits` are its pauses between attempts."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.waits: list[float] = []
        connection = client._connection
        connection.sleep = self._async_wait if self.is_async else self._wait

    @property
    def is_async(self) -> bool:
        return isinstance(self.client, AsyncNLAClient | AsyncNLACritic)

    def _wait(self, stop: Any, delay: float) -> bool:
        self.waits.append(delay)
        told: bool = stop.is_set()
        return told

    async def _async_wait(self, stop: Any, delay: float) -> bool:
        return self._wait(stop, delay)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.client, name)
        return (lambda *args, **kwargs: asyncio.run(method(*args, **kwargs))) if self.is_async else method

    def events(self, vec: Any, **kwargs: Any) -> list[Any]:
        return self._collected(lambda: self.client.verbalize(vec, stream=True, **kwargs))

    def explain_events(self, text: Any, **kwargs: Any) -> list[Any]:
        return self._collected(lambda: self.client.explain(text, stream=True, **kwargs))

    def _collected(self, open_stream: Callable[[], Any]) -> list[Any]:
        async def collect() -> list[Any]:
            return [event async for event in await open_stream()]

        return asyncio.run(collect()) if self.is_async else list(open_stream())


class Faces:
    """Makes clients of one kind before one server."""

    def __init__(self, kind: str, server: FakeServer) -> None:
        self._verbalizer, self._critic = (NLAClient, NLACritic) if kind == "sync" else (AsyncNLAClient, AsyncNLACritic)
        self._server = server

    def nla(self, **options: Any) -> Face:
        return Face(self._verbalizer("http://nla:8000", **self._options(options)))

    def critic(self, **options: Any) -> Face:
        return Face(self._critic("http://nla:8000", **self._options(options)))

    def _options(self, options: dict[str, Any]) -> dict[str, Any]:
        return {"transport": httpx.MockTransport(self._server), **options}


@pytest.fixture
def server() -> FakeServer:
    return FakeServer()


@pytest.fixture(params=["sync", "async"])
def faces(request: pytest.FixtureRequest, server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> Faces:
    monkeypatch.delenv("NLA_API_KEY", raising=False)
    return Faces(request.param, server)


@pytest.fixture
def error_body() -> Callable[..., dict[str, Any]]:
    def make(kind: str, message: str = "no", param: str | None = None) -> dict[str, Any]:
        model: dict[str, Any] = {"type": kind, "message": message, "param": param, "request_id": "req-1"}
        return {"error": model}

    return make


@pytest.fixture
def sse() -> Callable[..., bytes]:
    def make(name: str, event: BaseModel | dict[str, Any]) -> bytes:
        data = event.model_dump() if isinstance(event, BaseModel) else event
        return b"event: " + name.encode() + b"\ndata: " + orjson.dumps(data) + b"\n\n"

    return make
