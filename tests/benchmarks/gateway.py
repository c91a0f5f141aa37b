"""The gateway against its own engine driven directly, and single requests beside a large batch."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import aiohttp
import numpy as np
import orjson
from numpy.typing import NDArray

from nla_client import AsyncNLAClient
from nla_client.wire import VerbalizeRequest
from nla_gateway.engines.concurrency import SMALL_COMES_AGAIN_S
from nla_gateway.engines.engine import KEEP_IDLE_S
from nla_gateway.limits import GatewayLimits
from nla_gateway.pair.verbalizer import sampling
from nla_gateway.settings import Access, EngineSettings
from tests.benchmarks.figures import Figure, Job, Scale, Target, at_once, interleave, percentile, rate, ratios, repeated
from tests.benchmarks.reconstruct import make_texts
from tests.gateway.process import gateway, wait_until_ready
from tests.plain import encode, verbalizer_of
from tests.stack import Stack, detached_verbalizer

IN_FLIGHT: Final = 64
LARGE_BATCH: Final = 512
BATCHES: Final = 2
"""At the same time."""
QUICK: Final = 3
"""As many requests more of texts, which take that much less time: a p99 of few is the slowest one."""
LONG_TEXTS: Final = 64
PARTS_OF_LONG: Final = 40
"""Texts such as a verbalizer writes that make one of them: some 800 tokens."""
PARTS_OF_SHORT: Final = 4
"""More than what is tokenized before a thread would be told to."""


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
            orjson.loads(await self.send(body))

        return post

    async def send(self, body: bytes) -> bytes:
        """Send such a request, with an id of its own."""
        own = body.replace(b'"RID"', f'"{uuid.uuid4().hex}."'.encode())
        return await post(self._http, self._url, own, self._headers)


def open_http() -> aiohttp.ClientSession:
    """A plain client that does not itself become the limit."""
    return aiohttp.ClientSession(
        headers={"content-type": "application/json"},
        timeout=aiohttp.ClientTimeout(sock_read=600),
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_IDLE_S),
        raise_for_status=True,
    )


async def post(http: aiohttp.ClientSession, url: str, body: bytes, headers: dict[str, str] | None = None) -> bytes:
    """One request; its answer as it comes."""
    async with http.post(url, data=body, headers=headers) as reply:
        return await reply.read()


async def post_json(http: aiohttp.ClientSession, url: str, body: bytes, headers: dict[str, str] | None = None) -> Any:
    """One request; its answer parsed."""
    return orjson.loads(await post(http, url, body, headers))


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
        whole = await _added_latency(straight, singles, scale)
        short: dict[str, Any] = {"temperature": 0, "max_tokens": 1}
        shortest = await _added_latency(
            [direct.prepare(v, **short) for v in vectors],
            [through_gateway(http, stack.url, v[None], **short) for v in vectors],
            scale,
        )
    return [
        Figure("engine driven directly, 64 in flight", speed["engine"], "vectors/s"),
        Figure("through the gateway, batches by NLAClient", speed["client"], "vectors/s"),
        Figure("ratio, batches", ratios(speed["client"], speed["engine"]), "x", Target("at least", 0.95)),
        Figure("through the gateway, one vector a request", speed["singles"], "vectors/s"),
        Figure("ratio, one vector a request", ratios(speed["singles"], speed["engine"]), "x", Target("at least", 0.95)),
        Figure("added latency at concurrency 1, p50", whole, "ms", Target("at most", 2.0)),
        Figure("added latency at concurrency 1, answers of one token, p50", shortest, "ms"),
    ]


async def _added_latency(straight: Sequence[Job], through: Sequence[Job], scale: Scale) -> list[float]:
    """By round, the median of what a request takes longer through the gateway than the same one just before; ms."""
    p50 = []
    for _ in range(scale.rounds):
        added = []
        for k in range(scale.lone_requests):
            (alone,), _ = await at_once(1, [straight[k % len(straight)]])
            (longer,), _ = await at_once(1, [through[k % len(through)]])
            added.append(1000 * (longer - alone))
        p50.append(percentile(added, 50))
    return p50


@dataclass(frozen=True)
class Beside:
    """What a single request is measured beside."""

    path: str
    single: dict[str, Any]
    requests: int
    """Single ones a round."""
    loads: dict[str, list[dict[str, Any]]]
    """Bodies that another caller sends at the same time, again and again, by what they are called."""


def measure_fairness(stack: Stack, vectors: NDArray[np.float32], scale: Scale) -> list[Figure]:
    """p99 of a caller's single requests, alone and beside all that another one sends; of vectors and of texts."""

    def verbalize(some: NDArray[np.float32]) -> dict[str, Any]:
        return {"vectors": [encode(vector) for vector in some], "dtype": "float32", "temperature": 0}

    def beside(path: str, single: dict[str, Any], batch: dict[str, Any], requests: int) -> Beside:
        loads = {"batches of 512": [batch] * BATCHES, "64 single ones": [single] * IN_FLIGHT}
        return Beside(path, single, requests, loads)

    texts, count = make_texts(LARGE_BATCH), scale.lone_requests
    return _between_callers(
        stack,
        scale,
        beside("/verbalize", verbalize(vectors[:1]), verbalize(repeated(vectors, LARGE_BATCH)), count),
        beside("/reconstruct", {"texts": texts[:1]}, {"texts": texts}, QUICK * count),
    )


def measure_fairness_of_texts(stack: Stack, scale: Scale) -> list[Figure]:
    """The same of texts for the source: short ones, beside many long ones."""
    parts = make_texts(LONG_TEXTS * PARTS_OF_LONG)
    long = [" ".join(parts[k::LONG_TEXTS]) for k in range(LONG_TEXTS)]
    short, explained = {"texts": " ".join(parts[:PARTS_OF_SHORT])}, {"temperature": 0, "max_tokens": 16}
    load = f"{LONG_TEXTS} texts of 800 tokens"
    calls = {"/extract": ({}, scale.lone_requests), "/explain": (explained, scale.lone_requests // 2)}
    return _between_callers(
        stack,
        scale,
        *(
            Beside(path, short | more, requests, {load: [{"texts": long, **more}] * BATCHES})
            for path, (more, requests) in calls.items()
        ),
    )


def _between_callers(stack: Stack, scale: Scale, *rows: Beside) -> list[Figure]:
    access = Access(api_keys={name: f"key of {name}" for name in ("one", "many")})
    with gateway(GatewayLimits(), access=access, pairs=stack.settings().pairs) as shared:
        wait_until_ready(shared)
        return asyncio.run(_measure_fairness(shared.url, access, rows, scale))


async def _measure_fairness(url: str, access: Access, rows: Sequence[Beside], scale: Scale) -> list[Figure]:
    async with open_http() as http:

        def job(path: str, caller: str, body: dict[str, Any]) -> Job:
            headers, sent = {"authorization": f"Bearer {access.api_keys[caller]}"}, orjson.dumps(body)
            return lambda: post_json(http, f"{url}{path}", sent, headers)

        figures: list[Figure] = []
        for row in rows:
            one = job(row.path, "one", row.single)
            loads = {what: [job(row.path, "many", body) for body in bodies] for what, bodies in row.loads.items()}
            figures += await _fairness(row.path[1:], [one] * row.requests, loads, scale)
        return figures


async def _fairness(name: str, singles: list[Job], loads: Mapping[str, Sequence[Job]], scale: Scale) -> list[Figure]:
    async def alone() -> float:
        return percentile((await at_once(1, singles))[0], 99)

    async def beside(load: Sequence[Job]) -> float:
        async with background(load):
            await asyncio.sleep(1.0)
            p99 = await alone()
        await singles[0]()  # the engine has dropped what was left once this is through
        return p99

    measured = {what: partial(beside, load) for what, load in loads.items()}
    p99 = await interleave(scale.rounds, {"alone": alone, **measured}, warm=True)
    figures = [Figure(f"single {name} requests, p99, alone", [1000 * s for s in p99["alone"]], "ms")]
    for what in loads:
        title = f"single {name} requests, p99, beside another caller's {what}"
        figures.append(Figure(title, [1000 * s for s in p99[what]], "ms"))
        figures.append(Figure(f"{title}: ratio", ratios(p99[what], p99["alone"]), "x", Target("at most", 2.0)))
    return figures


@asynccontextmanager
async def background(jobs: Sequence[Job]) -> AsyncIterator[None]:
    """Do jobs without end meanwhile, at the same time; one that fails is no load, and its error is raised."""
    tasks = [asyncio.create_task(_for_ever(job)) for job in jobs]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    for error in ended:
        if isinstance(error, Exception):
            raise error


async def _for_ever(job: Job) -> None:
    while True:
        await job()
