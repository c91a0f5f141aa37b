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
    ExplainRequest,
    ExtractRequest,
    PositionsRequest,
    ReconstructRequest,
    TextRequest,
    TokenizeRequest,
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
        "source": dict(SOURCE),
        "base_model": "base", "layer": 20, "d_model": d_model, "predict_mean_mse": 1.0, "limits": LIMITS,
        "versions": {"nla-serve": "0"},
    }  # fmt: skip


CONTEXT: Final = 100
MOST_TOKENIZED: Final = 2**17
BOS: Final = 1
SOURCE: Final = {"model": "fake-source", "layer": 20, "context": CONTEXT, "checkpoint_dtype": "float32"}


def ids_of(text: str) -> list[int]:
    """A token a character, after the one with which every text begins."""
    return [BOS, *map(ord, text)]


def vectors_of(ids: list[int], d_model: int = D) -> Any:
    """What the source model holds at each token, float32 [T, d]: it depends on that token and all before it."""
    states = np.cumsum([np.sin(np.arange(1, d_model + 1) * (one % 97)) for one in ids], axis=0)
    return states.astype(np.float32)


def failure(kind: ErrorType, message: str = "why", param: str | None = None, **headers: str) -> Response:
    error = {"type": kind, "message": message, "param": param, "request_id": "r"}
    return JSONResponse({"error": error}, STATUS[kind], headers)


def limited(seconds: float, kind: str = "requests") -> Response:
    """What a key is told whose limit a minute is used up, for so many seconds."""
    headers = {"Retry-After": f"{seconds:g}", "x-ratelimit-exceeded": kind}
    return failure("overloaded", f"key: 60 {kind} a minute, and these are used up: wait", **headers)


def text_of(vector: Any, seed: int = 0) -> str:
    """What it says of a vector: its first element to three digits, and the seed where there is one."""
    return f"{vector[0]:.3g}" + (f" seed {seed}" if seed else "")


class Refused(Exception):
    """A request that is at fault."""

    def __init__(self, why: str, param: str) -> None:
        super().__init__(why)
        self.param = param


def form_of(call: TextRequest) -> str:
    return next(name for name in ("texts", "chats", "token_ids") if getattr(call, name) is not None)


def texts_of(call: TextRequest) -> list[tuple[list[int], str]]:
    """Ids and rendered text of each."""
    match form_of(call):
        case "texts":
            return [(ids_of(text), text) for text in call.texts or ()]
        case "chats":
            rendered = ["".join(f"{it.role}: {it.content}\n" for it in chat) for chat in call.chats or ()]  # type: ignore[union-attr]
            return [(ids_of(text), text) for text in rendered]
        case _:
            return [(list(ids), "".join(map(chr, ids[1:]))) for ids in call.token_ids or ()]  # type: ignore[arg-type]


def tokens_of(ids: list[int]) -> list[dict[str, Any]]:
    about = {"message": None, "role": None}
    return [
        {"position": place, "id": one, "text": chr(one) if place else "<s>", "start": max(place - 1, 0), "end": place,
         "special": place == 0, "content": place > 0, **about}
        for place, one in enumerate(ids)
    ]  # fmt: skip


@dataclass
class FakeGateway:
    """Answers; `trouble(path, body)` may give another reply first, or raise."""

    port: int
    trouble: Callable[[str, Any], Response | None] = lambda _path, _body: None
    served: dict[str, Any] = field(default_factory=info)
    ready: bool = True
    seen: list[tuple[str, Any]] = field(default_factory=list)
    vectors: int = 0
    read: list[list[int]] = field(default_factory=list)
    """Of each request the lengths of the texts that were read."""
    keep: bool = True
    """Whether what was seen is kept."""
    rebuild: Callable[[str], Any] = lambda text: np.full(D, float(len(text)))
    """The vector of a text [d]."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def answer(self, path: str, body: Any) -> Any:
        return getattr(self, f"_{path}")(body)

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

    def _tokenize(self, body: Any) -> Any:
        call = TokenizeRequest.model_validate(body)
        texts = texts_of(call)
        for index, (ids, _) in enumerate(texts):
            if len(ids) > MOST_TOKENIZED:
                why = f"the text has {len(ids)} tokens; at most {MOST_TOKENIZED} tokens are taken: shorten it"
                raise Refused(why, f"{form_of(call)}[{index}]")
        results = [{"index": index, "text": text, "tokens": tokens_of(ids)} for index, (ids, text) in enumerate(texts)]
        return {"model": SOURCE["model"], "results": results}

    def _read(self, call: PositionsRequest) -> list[tuple[str, list[dict[str, Any]], Any]]:
        """Of each text what it is, the chosen tokens, and their vectors."""
        found = []
        for index, (ids, text) in enumerate(texts_of(call)):
            tokens = tokens_of(ids)
            if len(ids) > CONTEXT:
                raise Refused(f"has {len(ids)} tokens", f"{form_of(call)}[{index}]")
            choice = call.positions if isinstance(call.positions, str) else call.positions[index]
            chosen = (
                {"last": [len(ids) - 1], "all": range(len(ids)), "content": range(1, len(ids))}.get(choice)
                if isinstance(choice, str)
                else sorted({place % len(ids) for place in choice})
            )
            if not chosen:
                raise Refused("there is no content", "positions")
            vectors = vectors_of(ids, self.served["d_model"])[list(chosen)]
            read = [tokens[place] | {"norm": float(np.linalg.norm(row.astype(np.float64))), "remark": None}
                    for place, row in zip(chosen, vectors, strict=True)]  # fmt: skip
            found.append((text, read, vectors))
        self.read.append([len(tokens_of(ids)) for ids, _ in texts_of(call)])
        return found

    def _extract(self, body: Any) -> Any:
        call = ExtractRequest.model_validate(body)
        results = [
            {"index": index, "text": text, "tokens": [token | {"vector": encode_vector(row, call.dtype)}
                                                     for token, row in zip(tokens, rows, strict=True)]}
            for index, (text, tokens, rows) in enumerate(self._read(call))
        ]  # fmt: skip
        usage = {"prompt_tokens": 7, "cached_tokens": 0, "completion_tokens": 0}
        about = {
            "model": SOURCE["model"],
            "layer": SOURCE["layer"],
            "d_model": self.served["d_model"],
            "dtype": call.dtype,
        }
        return about | {"results": results, "usage": usage}

    def _explain(self, body: Any) -> Any:
        call = ExplainRequest.model_validate(body)
        read = self._read(call)
        vectors = [encode_vector(row, "float32") for _, _, rows in read for row in rows]
        options = {name: body[name] for name in ("n", "seed", "score")}
        told = self._verbalize({"vectors": vectors, "dtype": "float32", **options})
        samples = iter(told["results"])
        results = [
            {
                "index": index,
                "text": text,
                "tokens": [token | {"samples": next(samples)["samples"]} for token in tokens],
            }
            for index, (text, tokens, _) in enumerate(read)
        ]
        return told | {"source": SOURCE["model"], "layer": SOURCE["layer"], "results": results}

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
            try:
                return self.trouble(path, body) or JSONResponse(self.answer(path, body))
            except Refused as error:
                return failure("invalid_request", f"{error.param}: {error}", error.param)

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
