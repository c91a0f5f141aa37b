"""One SGLang engine over HTTP. Knows SGLang's endpoints and nothing of NLA."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import aiohttp
import ml_dtypes
import numpy as np
import orjson
import pybase64
from numpy.typing import NDArray

from nla_client.wire import VectorDType
from nla_gateway.engines.capacity import Capacity
from nla_gateway.engines.concurrency import gather
from nla_gateway.errors import EngineUnavailable
from nla_gateway.settings import EngineSettings
from nla_gateway.states import EngineState
from nla_gateway.telemetry.tracing import UNTRACED, Tracing

T = TypeVar("T")

RETRY_AFTER_S: Final = 5
CONNECT_TIMEOUT_S: Final = 5.0
KEEP_IDLE_S: Final = 2.0
"""SGLang closes idle connections after 5 s; one that it is just closing must not be used again."""
INFO_TIMEOUT_S: Final = 20.0


NUMPY: Final[dict[VectorDType, Any]] = {"bfloat16": ml_dtypes.bfloat16, "float32": np.float32}


class EngineLostError(Exception):
    """The engine went away with a request, which can be sent again: requests have no side effects."""


class Engine:
    """A client of one engine, with what is known of the engine's state.

    Args:
        label: `verbalizer` or `reconstructor`, with a number where there are several, for messages.
        url: where it is.
        settings: what it serves, and its key.
        tracing: makes spans of the calls.
    """

    def __init__(self, label: str, url: str, settings: EngineSettings, tracing: Tracing = UNTRACED) -> None:
        self.label = label
        self.state: EngineState = "starting"
        self.reason: str | None = None
        self.capacity: Capacity | None = None
        """By its own account, when it last passed its self-test."""
        self.in_flight = 0
        self.life = 0
        """How many times it has become ready."""
        self.doubted = asyncio.Event()
        """Set when a request was lost, for whoever watches the state."""
        self._url, self._settings, self._tracing = url, settings, tracing
        self._waits: set[asyncio.Timeout] = set()

    async def __aenter__(self) -> Self:
        self._http = open_session(self._url, self._settings)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.close()

    def drop_requests(self) -> None:
        """Give all requests in flight up for lost, so that they can be sent elsewhere."""
        now = asyncio.get_running_loop().time()
        for wait in self._waits:
            wait.reschedule(now)

    async def generate(self, payload: dict[str, Any]) -> dict[str, Any]:
        """Run one generation to its end; cancelling the call ends it in the engine too."""
        async with self._aborting("/generate", payload["rid"]):
            answer: dict[str, Any] = await self._json("POST", "/generate", payload)
            return answer

    async def stream(self, payload: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """Run one generation, yielding SGLang's chunks, each with the text so far."""
        body = orjson.dumps({**payload, "stream": True})
        async with (
            self._aborting("/generate", payload["rid"]),
            self._translating(),
            await self._unless_dropped(self._http.post("/generate", data=body)) as response,
        ):
            if not response.ok:
                self._raise_for(response.status, await response.read())
            async for line in self._lines(response):
                if line.startswith(b"data: ") and line != b"data: [DONE]":
                    yield self._chunk(line)

    async def embed(self, batch: list[list[int]], model: str, rid: str) -> tuple[list[NDArray[np.float32]], int]:
        """Embed token ids; returns float32 vectors [d] in order and the number of prompt tokens.

        Args:
            batch: the prompts.
            model: the engine's name for its model.
            rid: this call's id in the engine, where each prompt adds its number.
        """
        rids = [f"{rid}{number}." for number in range(len(batch))]
        payload = {"model": model, "input": batch, "encoding_format": "base64", "rid": rids}
        with self._tracing.call(self.label, "/v1/embeddings", rid):
            answer = await self._json("POST", "/v1/embeddings", payload)
        rows = sorted(answer["data"], key=lambda row: row["index"])
        vectors = [np.frombuffer(pybase64.b64decode(row["embedding"]), "<f4") for row in rows]
        return vectors, int(answer["usage"]["prompt_tokens"])

    async def read(
        self, batch: list[list[int]], positions: list[list[int]], rid: str
    ) -> tuple[list[NDArray[np.float32]], int]:
        """Read a source model at positions of texts; returns float32 rows [positions, d] of each, and prompt tokens.

        Args:
            batch: the texts as token ids.
            positions: of each, where.
            rid: this call's id in the engine, where each text adds its number.
        """
        payload: dict[str, Any] = {
            "rid": [f"{rid}{number}." for number in range(len(batch))],
            "input_ids": batch,
            "token_indices_to_pool": positions,
            "return_pooled_hidden_states": True,
        }
        async with self._aborting("/encode", *payload["rid"]):
            answer = await self._json("POST", "/encode", payload)
        if any("pooled_hidden_state" not in one for one in answer):
            raise EngineUnavailable(f"the {self.label} dropped the request", retry_after_s=RETRY_AFTER_S)

        def decode() -> list[NDArray[np.float32]]:
            pairs = zip(answer, positions, strict=True)
            return [decode_rows(one["pooled_hidden_state"], self._settings.dtype, len(where)) for one, where in pairs]

        return await asyncio.to_thread(decode), sum(one["meta_info"]["prompt_tokens"] for one in answer)

    async def server_info(self) -> dict[str, Any]:
        """Ask the engine about itself."""
        async with asyncio.timeout(INFO_TIMEOUT_S):
            answer: dict[str, Any] = await self._json("GET", "/server_info")
        return answer

    async def freeze_gc(self) -> None:
        """Leave what it has loaded out of Python's garbage collections; SGLang does so itself only after a warm-up."""
        await self._request("POST", "/freeze_gc")

    async def makes_progress(self) -> bool:
        """Ask whether anything comes out of the engine; idle, it computes one token for that.

        Several replicas take turns at that token, and whatever comes out of one counts for all: so as many tokens are
        asked for as there are replicas, and an account of itself from each, which none gives while it is stuck.
        """
        replicas = self._settings.replicas
        questions = ["/health"] * replicas + ["/server_info"] * (replicas > 1)
        return all(await gather(self._says_yes(path) for path in questions))

    async def is_there(self) -> bool:
        """Ask whether its main process answers, which costs it nothing; EngineLostError where nobody listens."""
        return await self._says_yes("/model_info")

    async def _says_yes(self, path: str) -> bool:
        async with self._translating(), self._http.get(path) as response:
            await response.read()
            return response.ok

    async def metrics(self) -> str:
        """Fetch the engine's own metrics, in Prometheus's text format."""
        return (await self._request("GET", "/metrics")).decode()

    async def _json(self, method: str, path: str, payload: dict[str, Any] | None = None) -> Any:
        return orjson.loads(await self._request(method, path, payload))

    async def _request(self, method: str, path: str, payload: dict[str, Any] | None = None) -> bytes:
        content = None if payload is None else orjson.dumps(payload)
        async with self._translating():
            return await self._unless_dropped(self._fetch(method, path, content))

    async def _fetch(self, method: str, path: str, content: bytes | None) -> bytes:
        async with self._http.request(method, path, data=content) as response:
            body = await response.read()
        if not response.ok:
            self._raise_for(response.status, body)
        return body

    async def _lines(self, response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        """Split at newlines; aiohttp's own splitting refuses long lines."""
        rest = b""
        while piece := await self._unless_dropped(response.content.readany()):
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                yield line

    async def _unless_dropped(self, work: Awaitable[T]) -> T:
        """Wait for something of a request, until all requests are given up for lost."""
        try:
            async with asyncio.timeout(None) as wait:
                self._waits.add(wait)
                try:
                    return await work
                finally:
                    self._waits.discard(wait)
        except TimeoutError:
            if wait.expired():
                raise EngineLostError(f"the {self.label} is lost") from None
            raise

    def _chunk(self, line: bytes) -> dict[str, Any]:
        chunk: dict[str, Any] = orjson.loads(line.removeprefix(b"data: "))
        if "error" in chunk:
            raise RuntimeError(f"the {self.label} engine answered {chunk['error']}")
        return chunk

    def _raise_for(self, status: int, body: bytes) -> None:
        if status == 503:  # it has been told to stop
            raise EngineLostError(f"the {self.label} takes no requests any more")
        if status == 429:
            raise EngineUnavailable(f"the {self.label} takes no requests just now", retry_after_s=RETRY_AFTER_S)
        # Requests were checked before they came here, so a refusal is our own mistake.
        raise RuntimeError(f"the {self.label} engine answered {status}: {body[:500].decode(errors='replace')}")

    @asynccontextmanager
    async def _translating(self) -> AsyncIterator[None]:
        """Turn what aiohttp raises into what a caller may be told."""
        try:
            yield
        except aiohttp.ClientError as error:
            self.doubted.set()
            raise EngineLostError(f"the connection to the {self.label} broke: {type(error).__name__}") from None

    @asynccontextmanager
    async def _aborting(self, path: str, *rids: str) -> AsyncIterator[None]:
        """End a call's work at once when its caller is cancelled; SGLang itself looks only every few seconds."""
        try:
            with self._tracing.call(self.label, path, rids[0]):
                yield
        except (asyncio.CancelledError, GeneratorExit):
            for rid in rids:
                task = asyncio.create_task(self._abort(rid))
                _running.add(task)
                task.add_done_callback(_running.discard)
            raise

    async def _abort(self, rid: str) -> None:
        # The engine may be gone, or the gateway stop (a closed session is a RuntimeError): then the sample ends too.
        with suppress(aiohttp.ClientError, RuntimeError):
            async with self._http.post("/abort_request", data=orjson.dumps({"rid": rid})):
                pass


def decode_rows(data: str, dtype: VectorDType, count: int) -> NDArray[np.float32]:
    """Decode base64 of so many rows in a dtype to float32 [count, d]."""
    raw = pybase64.b64decode_as_bytearray(data)
    rows: NDArray[np.float32] = np.frombuffer(raw, NUMPY[dtype]).astype(np.float32).reshape(count, -1)
    return rows


def open_session(url: str, settings: EngineSettings) -> aiohttp.ClientSession:
    """Open an HTTP session with an engine. aiohttp's: httpx takes four times the CPU, and more with many in flight.

    How long to wait for an answer is for those to say who wait.
    """
    return aiohttp.ClientSession(
        url,
        headers={"authorization": f"Bearer {settings.api_key}", "content-type": "application/json"},
        timeout=aiohttp.ClientTimeout(sock_connect=CONNECT_TIMEOUT_S),
        # No limit: requests wait in the pool's Turns.
        skip_auto_headers=("accept", "accept-encoding", "user-agent"),  # an engine looks at none of them
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_IDLE_S),
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,  # a proxy from the environment must not stand between us and the engine
    )


_running: Final[set[asyncio.Task[None]]] = set()
"""Keeps abort calls alive: the loop itself holds tasks only weakly."""
