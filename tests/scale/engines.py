"""Stand-ins for verbalizer engines: as slow as one says, without a model. `python -m tests.scale.engines`.

What they say of a vector is a digest of it, so that an answer tells whose it is. They answer what the gateway's
self-test asks, as an engine would that heeds its vectors.
"""

import argparse
import asyncio
import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import orjson
from aiohttp import web

TOKENS: Final = 120
"""Of a whole sample."""
TOP: Final = 20
VOCABULARY: Final = 512
MARKER: Final = "the marker"
REPORT: Final[dict[str, Any]] = {
    "missing_hooks": [], "role": "av", "kind": "verbalizer", "blocks": None, "dtype": "float32", "model_class": "none",
    "fingerprint": None,
}  # fmt: skip


def said_of(embeds: Sequence[str]) -> str:
    """What a stand-in says of an injected row, as it is sent to an engine."""
    return hashlib.sha256(embeds[0].encode()).hexdigest()[:16]


@dataclass
class StandIn:
    """One engine.

    Attributes:
        places: Samples at the same time; others wait, first come first served.
        sample_s: What a whole sample takes, however many others there are.
        served: Samples so far.
    """

    places: int
    sample_s: float
    served: int = 0

    def __post_init__(self) -> None:
        self._free = asyncio.Semaphore(self.places)

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/server_info", self._info)
        app.router.add_get("/health", self._fine)
        app.router.add_get("/model_info", self._fine)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_post("/generate", self._generate)
        app.router.add_post("/abort_request", self._fine)
        app.router.add_post("/freeze_gc", self._fine)
        return app

    async def _fine(self, _request: web.Request) -> web.Response:
        return web.Response()

    async def _metrics(self, _request: web.Request) -> web.Response:
        return web.Response(text=f"# TYPE stand_in_samples counter\nstand_in_samples {self.served}\n")

    async def _info(self, _request: web.Request) -> web.Response:
        state = {"nla": REPORT, "memory_usage": {"token_capacity": 2**20}, "page_size": 1,
                 "effective_max_running_requests_per_dp": self.places}  # fmt: skip
        return _json({"internal_states": [state]})

    async def _generate(self, request: web.Request) -> web.Response:
        asked = orjson.loads(await request.read())
        injected = asked.get("positional_embed_overrides")
        said = MARKER if injected is None else said_of(injected["embeds"])
        count = min(asked["sampling_params"]["max_new_tokens"], TOKENS)
        async with self._free:
            await asyncio.sleep(self.sample_s * count / TOKENS)
        self.served += count == TOKENS
        meta: dict[str, Any] = {
            "finish_reason": {"type": "stop", "matched": "</explanation>"},
            "prompt_tokens": len(asked["input_ids"]), "cached_tokens": 0, "completion_tokens": count,
        }  # fmt: skip
        if asked.get("return_logprob"):
            places = _places(said, len(asked["input_ids"]) + 1)
            meta |= {"input_top_logprobs": places[:-1], "output_top_logprobs": places[-1:]}
        text = f"<explanation>{said}</explanation>"
        return _json({"text": text, "output_ids": list(range(count)), "meta_info": meta})


def _places(said: str, count: int) -> list[list[tuple[float, int, None]]]:
    """Log-probabilities at so many places, which depend on what is said."""
    draw = np.random.default_rng(int(hashlib.sha256(said.encode()).hexdigest()[:8], 16))
    logprobs, tokens = -draw.exponential(3.0, (count, TOP)), draw.integers(VOCABULARY, size=(count, TOP))
    return [
        [(logprob, token, None) for logprob, token in zip(*place, strict=True)]
        for place in zip(logprobs.tolist(), tokens.tolist(), strict=True)
    ]


def _json(answer: dict[str, Any]) -> web.Response:
    return web.Response(body=orjson.dumps(answer), content_type="application/json")


async def serve(ports: Sequence[int], places: int, sample_s: float) -> None:
    """Serve an engine on each of the ports, until the process ends."""
    for port in ports:
        runner = web.AppRunner(StandIn(places, sample_s).app(), access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port, backlog=512).start()
    sys.stdout.write("up\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


def main() -> None:
    """Serve what the command line says."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--places", type=int, required=True)
    parser.add_argument("--sample-s", type=float, required=True)
    parser.add_argument("ports", type=int, nargs="+")
    given = parser.parse_args()
    asyncio.run(serve(given.ports, given.places, given.sample_s))


if __name__ == "__main__":
    main()
