"""Stand-ins for engines, real servers that compute nothing, and a gateway's app before them, in this process."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final
from zlib import crc32

import httpx
import numpy as np
from aiohttp import web
from numpy.typing import NDArray

from nla_gateway.api.app import create_app
from nla_gateway.description import Description, SourceDescription
from nla_gateway.limits import GatewayLimits
from nla_gateway.roles import Role
from nla_gateway.settings import Access, EngineSettings, PairSettings, Settings
from tests.descriptions import described
from tests.plain import TOY

OPEN: Final = Access()
USUAL: Final = GatewayLimits()
ANSWER: Final = "<explanation>a cat</explanation>"


class StandIn:
    """Answers what the gateway asks of one engine of the toy pair, so that it passes its self-test.

    Args:
        role: the engine's.
        refusal: what it says where it is asked what it is, instead of that.
        report: what its account of itself has otherwise.
    """

    def __init__(self, role: Role, refusal: str | None = None, **report: Any) -> None:
        self.role = role
        self.asked = list[dict[str, Any]]()
        """Bodies of the requests for work, as they came."""
        self.cached_tokens = 0
        """What it says of each prompt."""
        self.begin, self.go_on = asyncio.Event(), asyncio.Event()
        """Until they are set, work waits before it begins, and streams between their two pieces; at first they are."""
        self.begin.set()
        self.go_on.set()
        self.broken = False
        """Whether work ends in an error."""
        self._refusal, self._report = refusal, report
        self._description = _described(role)

    @property
    def ids(self) -> list[str]:
        """Of the requests for work, also of those that came together."""
        given = [body["rid"] for body in self.asked]
        return [rid for one in given for rid in ([one] if isinstance(one, str) else one)]

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[EngineSettings]:
        """Serve, as the settings tell."""
        app = web.Application()
        app.router.add_get("/server_info", self._tell)
        app.router.add_post("/generate", self._generate)
        app.router.add_post("/v1/embeddings", self._embed)
        app.router.add_post("/encode", self._encode)
        app.router.add_route("*", "/{path}", self._agree)
        runner = web.AppRunner(app, shutdown_timeout=0)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        _, port = runner.addresses[0]
        try:
            yield EngineSettings(
                urls=(f"http://127.0.0.1:{port}",), api_key="k", checkpoint=_folder(self.role), model=self.role.label,
                dtype="float32", context_length=1024, max_in_flight=8, shared_in_flight=1,
                description=self._description,
            )  # fmt: skip
        finally:
            await runner.cleanup()

    async def _agree(self, request: web.Request) -> web.Response:
        return web.json_response({})

    async def _tell(self, request: web.Request) -> web.Response:
        if self._refusal is not None:
            return web.Response(status=500, text=self._refusal)
        report: dict[str, Any] = {
            "role": self.role, "kind": self.role.label, "blocks": _blocks(self._description), "dtype": "float32",
            "missing_hooks": [], "fingerprint": None,
        }  # fmt: skip
        return web.json_response({"internal_states": [{"nla": report | self._report}]})

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        answer = self.answer(await self._body(request))
        if "stream" not in self.asked[-1]:
            return web.json_response(answer)
        begun = {"text": ANSWER[:-16], "meta_info": {"finish_reason": None}}
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(f"data: {json.dumps(begun)}\n\n".encode())
        await self.go_on.wait()
        await response.write(f"data: {json.dumps(answer)}\n\ndata: [DONE]\n\n".encode())
        return response

    def answer(self, asked: dict[str, Any]) -> dict[str, Any]:
        """One generation; its log-probabilities depend on the injected vector alone."""
        drawn = _rng(asked.get("positional_embed_overrides")).random(2)
        place = [[-float(logprob), token, None] for token, logprob in enumerate(drawn)]
        meta = {
            "finish_reason": {"type": "stop", "matched": "</explanation>"}, "prompt_tokens": len(asked["input_ids"]),
            "cached_tokens": self.cached_tokens, "completion_tokens": 3,
            "input_top_logprobs": [place] * len(asked["input_ids"]), "output_top_logprobs": [place],
        }  # fmt: skip
        return {"text": ANSWER, "output_ids": [1, 2, 3], "meta_info": meta}

    async def _embed(self, request: web.Request) -> web.Response:
        texts = (await self._body(request))["input"]
        data = [{"index": index, "embedding": self._rows(ids, [len(ids) - 1])} for index, ids in enumerate(texts)]
        return web.json_response({"data": data, "usage": {"prompt_tokens": sum(map(len, texts))}})

    async def _encode(self, request: web.Request) -> web.Response:
        body = await self._body(request)
        pairs = zip(body["input_ids"], body["token_indices_to_pool"], strict=True)
        return web.json_response([
            {"pooled_hidden_state": self._rows(ids, places), "meta_info": {"prompt_tokens": len(ids)}}
            for ids, places in pairs
        ])  # fmt: skip

    async def _body(self, request: web.Request) -> dict[str, Any]:
        body: dict[str, Any] = json.loads(await request.read())
        self.asked.append(body)
        await self.begin.wait()
        if self.broken:
            raise web.HTTPInternalServerError
        return body

    def _rows(self, ids: list[int], places: list[int]) -> str:
        """Vectors at places of a text, which depend on what stands before each."""
        rows: list[NDArray[np.float64]] = [
            _rng(ids[: place + 1]).standard_normal(self._description.d_model) for place in places
        ]
        return base64.b64encode(np.stack(rows).astype("<f4").tobytes()).decode()


Work = Callable[[httpx.AsyncClient], Awaitable[None]]


def before(work: Work, *engines: StandIn, limits: GatewayLimits = USUAL, access: Access = OPEN) -> None:
    """Do something with a gateway before these engines, whether they are ready or not."""

    async def run() -> None:
        async with AsyncExitStack() as stack:
            served = {one.role: await stack.enter_async_context(one.serving()) for one in engines}
            pairs = (PairSettings(name="toy", engines=served),) if served else ()
            app = create_app(Settings(pairs=pairs, limits=limits, access=access))
            await stack.enter_async_context(app.router.lifespan_context(app))
            client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost")
            await work(await stack.enter_async_context(client))

    asyncio.run(asyncio.wait_for(run(), 120))


async def until_ready(client: httpx.AsyncClient) -> None:
    while (await client.get("/ready")).status_code != 200:  # noqa: ASYNC110 - readiness is asked for, over HTTP
        await asyncio.sleep(0.02)


def _rng(seed: Any) -> np.random.Generator:
    return np.random.default_rng(crc32(json.dumps(seed).encode()))


def _folder(role: Role) -> Path:
    return TOY / ("reconstructor" if role == Role.AR else "verbalizer")


def _described(role: Role) -> Description:
    if role != Role.SOURCE:
        return described(role, _folder(role))
    layer = (pair := described(Role.AV, _folder(role))).layer or 0
    return Description(role=role, d_model=pair.d_model, layer=pair.layer, source=SourceDescription(blocks=layer + 1))


def _blocks(description: Description) -> int | None:
    """Of which the last one's output counts."""
    rules = description.reconstructor or description.source
    return None if rules is None else rules.blocks
