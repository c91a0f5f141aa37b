"""The gateway against its own engine driven directly, and single requests beside a large batch."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Final

import aiohttp
import numpy as np
import orjson
from numpy.typing import NDArray

from nla_client import AsyncNLAClient
from nla_client.wire import VerbalizeRequest
from nla_gateway.engines.concurrency import SMALL_COMES_AGAIN_S
from nla_gateway.engines.engine import KEEP_IDLE_S
from nla_gateway.pair.verbalizer import sampling
from nla_gateway.settings import EngineSettings
from tests.benchmarks.figures import Figure, Job, Scale, Target, at_once, interleave, percentile, rate, ratios, repeated
from tests.benchmarks.reconstruct import make_texts
from tests.plain import encode, verbalizer_of
from tests.stack import Stack, detached_verbalizer

IN_FLIGHT: Final = 64
LARGE_BATCH: Final = 512


class Direct:
    """Drives a verbalizer engine with prepared requests."""

    def __init__(self, settings: EngineSettings, http: aiohttp.ClientSession) -> None:
        self._part = detached_verbalizer(settings)
        self._url, self._http = f"{settings.urls[0]}/generate", http
        self._headers = {"authorization": f"Bearer {settings.api_key}"}

    def body(self, vector: NDArray[np.float32], **arguments: Any) -> bytes:
        """What the gateway sends to its engine for one sample."""
        call = VerbalizeRequest(vectors="", **arguments)
        payload = self._part.payload(self._part.inject(vector), sampling(call, 0, self._part.prompt.form), "RID")
        return orjson.dumps(payload)

    def prepare(self, vector: NDArray[np.float32], **arguments: Any) -> Job:
        """One request, ready to be sent any number of times."""
        body = self.body(vector, **arguments)

        async def post() -> None:
            own = body.replace(b'"RID"', f'"{uuid.uuid4().hex}."'.encode())
            await post_json(self._http, self._url, own, self._headers)

        return post


def open_http() -> aiohttp.ClientSession:
    """A plain client that does not itself become the limit."""
    return aiohttp.ClientSession(
        headers={"content-type": "application/json"},
        timeout=aiohttp.ClientTimeout(sock_read=600),
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_IDLE_S),
        raise_for_status=True,
    )


async def post_json(http: aiohttp.ClientSession, url: str, body: bytes, headers: dict[str, str] | None = None) -> Any:
    """One request; its answer parsed."""
    async with http.post(url, data=body, headers=headers) as reply:
        return orjson.loads(await reply.read())


def through_gateway(
    http: aiohttp.ClientSession, url: str, vectors: NDArray[np.float32], **arguments: Any
) -> Callable[[], Awaitable[dict[str, Any]]]:
    """One request of these vectors, ready to be sent any number of times."""
    body = orjson.dumps({"vectors": [encode(v) for v in vectors], "dtype": "float32", **arguments})

    async def post() -> dict[str, Any]:
        answer: dict[str, Any] = await post_json(http, f"{url}/verbalize", body)
        return answer

    return post


async def measure(stack: Stack, vectors: NDArray[np.float32], scale: Scale) -> list[Figure]:
    """Throughput ratios at saturation, and the latency that the gateway adds."""
    some = repeated(vectors, scale.requests)
    async with (
        open_http() as http,
        AsyncNLAClient(stack.url) as client,
    ):
        direct = Direct(verbalizer_of(stack), http)
        straight = [direct.prepare(v, temperature=0) for v in some]
        singles = [through_gateway(http, stack.url, v[None], temperature=0) for v in some]

        async def by_engine() -> float:
            return await rate(len(some), *straight, limit=IN_FLIGHT)

        async def by_singles() -> float:
            return await rate(len(some), *singles, limit=IN_FLIGHT)

        async def by_client() -> float:
            await asyncio.sleep(SMALL_COMES_AGAIN_S)  # else the gateway still keeps room for the single requests
            return await rate(len(some), lambda: client.verbalize(some, temperature=0))

        speed = await interleave(scale.rounds, {"engine": by_engine, "client": by_client, "singles": by_singles})
        p50, p99 = await _added_latency(straight, singles, scale)
    return [
        Figure("engine driven directly, 64 in flight", speed["engine"], "vectors/s"),
        Figure("through the gateway, batches by NLAClient", speed["client"], "vectors/s"),
        Figure("ratio, batches", ratios(speed["client"], speed["engine"]), "x", Target("at least", 0.95)),
        Figure("through the gateway, one vector a request", speed["singles"], "vectors/s"),
        Figure("ratio, one vector a request", ratios(speed["singles"], speed["engine"]), "x"),
        Figure("added latency at concurrency 1, p50", p50, "ms", Target("at most", 3.0)),
        Figure("added latency at concurrency 1, p99", p99, "ms"),
    ]


async def _added_latency(
    straight: Sequence[Job], through: Sequence[Job], scale: Scale
) -> tuple[list[float], list[float]]:
    """Latency through the gateway less the engine's own, request by request in turns; ms at p50 and p99, by round."""
    p50, p99 = [], []
    for _ in range(scale.rounds):
        alone, added = [], []
        for k in range(scale.lone_requests):
            alone += (await at_once(1, [straight[k % len(straight)]]))[0]
            added += (await at_once(1, [through[k % len(through)]]))[0]
        p50.append(1000 * (percentile(added, 50) - percentile(alone, 50)))
        p99.append(1000 * (percentile(added, 99) - percentile(alone, 99)))
    return p50, p99


async def measure_fairness(stack: Stack, vectors: NDArray[np.float32], scale: Scale) -> list[Figure]:
    """p99 of single requests, alone and beside batches of 512 without end; of vectors and of texts."""
    texts = make_texts(LARGE_BATCH)
    async with open_http() as http:

        def reconstruct(some: list[str]) -> Job:
            body = orjson.dumps({"texts": some})
            return lambda: post_json(http, f"{stack.url}/reconstruct", body)

        def verbalize(some: NDArray[np.float32]) -> Job:
            return through_gateway(http, stack.url, some, temperature=0)

        figures = await _fairness("verbalize", verbalize(vectors[:1]), verbalize(repeated(vectors, LARGE_BATCH)), scale)
        return figures + await _fairness("reconstruct", reconstruct(texts[:1]), reconstruct(texts), scale)


async def _fairness(name: str, single: Job, batch: Job, scale: Scale) -> list[Figure]:
    async def alone() -> float:
        return percentile((await at_once(1, [single] * scale.lone_requests))[0], 99)

    async def beside_batches() -> float:
        load = asyncio.create_task(_for_ever(batch))
        await asyncio.sleep(1.0)
        p99 = await alone()
        load.cancel()
        with suppress(asyncio.CancelledError):
            await load
        await single()  # the engine has dropped the batch once this is through
        return p99

    p99 = await interleave(scale.rounds, {"alone": alone, "beside": beside_batches}, warm=True)
    return [
        Figure(f"single {name} requests, p99, alone", [1000 * s for s in p99["alone"]], "ms"),
        Figure(f"single {name} requests, p99, beside batches of 512", [1000 * s for s in p99["beside"]], "ms"),
        Figure(f"single {name} requests, p99, ratio", ratios(p99["beside"], p99["alone"]), "x", Target("at most", 3.0)),
    ]


async def _for_ever(job: Job) -> None:
    while True:
        await job()
