"""A small server that keeps the contract, to fail in every way that a real one may: on its own port, in a thread."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from nla_client.wire import (
    STATUS,
    CriticRequest,
    ErrorType,
    ReconstructRequest,
    VerbalizeRequest,
    decode_vector,
    encode_vector,
)

D: Final = 8
LIMITS = {
    "max_body_bytes": 2**26, "max_held_bytes": 2**28, "max_batch": 512, "max_n": 64, "max_samples": 2048,
    "max_tokens": 1024, "max_text_tokens": 1024, "max_queue": 4096, "request_timeout_s": 5.0,
    "stall_timeout_s": 30.0, "grace_s": 30.0,
}  # fmt: skip


def info(name: str = "fake", d_model: int = D) -> dict[str, Any]:
    model = {"checkpoint_dtype": "float32", "injection_scale": 3.0, "mse_scale": 3.0}
    return {
        "verbalizer": {"model": f"{name}-av", "role": "av", **model},
        "reconstructor": {"model": f"{name}-ar", "role": "ar", **model},
        "base_model": "base", "layer": 20, "d_model": d_model, "predict_mean_mse": 1.0, "limits": LIMITS,
        "versions": {"nla-serve": "0"},
    }  # fmt: skip


def failure(kind: ErrorType, message: str = "why", param: str | None = None, **headers: str) -> Response:
    error = {"type": kind, "message": message, "param": param, "request_id": "r"}
    return JSONResponse({"error": error}, STATUS[kind], headers)


def text_of(vector: Any, seed: int = 0) -> str:
    """What it says of a vector: its first element to three digits, and the seed where there is one."""
    return f"{vector[0]:.3g}" + (f" seed {seed}" if seed else "")


@dataclass
class FakeGateway:
    """Answers; `trouble(path, body)` may give another reply first, or raise."""

    port: int
    trouble: Callable[[str, Any], Response | None] = lambda _path, _body: None
    served: dict[str, Any] = field(default_factory=info)
    ready: bool = True
    seen: list[tuple[str, Any]] = field(default_factory=list)
    vectors: int = 0
    keep: bool = True
    """Whether what was seen is kept."""
    rebuild: Callable[[str], Any] = lambda text: np.full(D, float(len(text)))
    """The vector of a text [d]."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def answer(self, path: str, body: Any) -> Any:
        return {"verbalize": self._verbalize, "reconstruct": self._reconstruct, "critic": self._critic}[path](body)

    def _verbalize(self, body: Any) -> Any:
        call = VerbalizeRequest.model_validate(body)
        vectors = [decode_vector(vector, call.dtype, self.served["d_model"]) for vector in call.vectors]
        self.vectors += len(vectors)
        results = []
        for index, vector in enumerate(vectors):
            texts = [f"{text_of(vector, (call.seed or 0) + index)} {sample}" for sample in range(call.n)]
            mses = [abs(sample - 1) / 10 for sample in range(call.n)]  # of several, the second is the best
            scores = [{"mse": mse, "cosine": 1 - mse / 2, "fve": 1 - mse} if call.score else None for mse in mses]
            samples = [
                {"text": text, "complete": bool(vector[0] < 90), "finish_reason": "stop", "score": score}
                for text, score in zip(texts, scores, strict=True)
            ]
            results.append({"index": index, "samples": samples})
        usage = {
            "prompt_tokens": 10 * len(vectors),
            "cached_tokens": 5 * len(vectors),
            "completion_tokens": len(vectors),
        }
        return {"model": self.served["verbalizer"]["model"], "results": results, "usage": usage}

    def _reconstruct(self, body: Any) -> Any:
        call = ReconstructRequest.model_validate(body)
        vectors = [encode_vector(self.rebuild(text), call.dtype) for text in call.texts]
        usage = {"prompt_tokens": 1, "cached_tokens": 0, "completion_tokens": 0}
        model = self.served["reconstructor"]["model"]
        return {"model": model, "dtype": call.dtype, "d_model": D, "vectors": vectors, "usage": usage}

    def _critic(self, body: Any) -> Any:
        call = CriticRequest.model_validate(body)
        results = [
            {"index": k, "mse": len(text) / 100, "cosine": 0.5, "fve": 0.25} for k, text in enumerate(call.texts)
        ]
        usage = {"prompt_tokens": 1, "cached_tokens": 0, "completion_tokens": 0}
        return {"model": self.served["reconstructor"]["model"], "results": results, "usage": usage}

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.get("/v1/info")
        async def show() -> Any:
            return self.served

        @app.get("/ready")
        async def ready() -> Response:
            return JSONResponse({"ready": self.ready}, 200 if self.ready else 503)

        @app.post("/{path}")
        async def post(path: str, request: Request) -> Response:
            body = await request.json()
            if self.keep:
                self.seen.append((path, body))
            return self.trouble(path, body) or JSONResponse(self.answer(path, body))

        return app


@contextmanager
def fake_gateway(port: int | None = None) -> Iterator[FakeGateway]:
    """Serve one for the length of the block."""
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", port or 0))
        fake = FakeGateway(listening.getsockname()[1])
        server = uvicorn.Server(uvicorn.Config(fake.app(), log_level="critical", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        try:
            yield fake
        finally:
            server.should_exit = True
            thread.join(10)
