"""`/verbalize` against the public recipe: client-built `input_embeds` as JSON to a stock server."""

from pathlib import Path
from typing import Final

import aiohttp
import httpx
import numpy as np
import orjson
from numpy.typing import NDArray

from nla_gateway.pair.parsing import parse
from tests.benchmarks.figures import Figure, Scale, Target, interleave, rate, ratios
from tests.benchmarks.gateway import Direct, open_http, through_gateway
from tests.plain import texts_of, verbalizer_of
from tests.reference import ReferenceVerbalizer
from tests.stack import Stack

IN_FLIGHT: Final = 16
ANSWER_TOKENS: Final = 16
GREEDY: Final = {"temperature": 0, "max_tokens": ANSWER_TOKENS}
SAMPLING: Final = {"temperature": 0, "max_new_tokens": ANSWER_TOKENS, "stop": ["</explanation>"],
                   "no_stop_trim": True, "skip_special_tokens": False}  # fmt: skip


class Recipe:
    """The public recipe's client: looks up the prompt's embeddings, puts the vector in, sends all rows as JSON."""

    def __init__(self, checkpoint: Path, url: str, http: httpx.AsyncClient) -> None:
        self._reference = ReferenceVerbalizer(checkpoint)
        self.d_model: int = self._reference.sidecar["d_model"]
        self._url, self._http = url, http

    def body(self, vector: NDArray[np.float32]) -> bytes:
        rows = self._reference.embeds(vector)[0].numpy()
        payload = {"input_embeds": rows, "sampling_params": SAMPLING}
        return orjson.dumps(payload, option=orjson.OPT_SERIALIZE_NUMPY)

    async def verbalize(self, vector: NDArray[np.float32]) -> str:
        reply = await self._http.post(
            f"{self._url}/generate", content=self.body(vector), headers={"content-type": "application/json"}
        )
        text: str = reply.raise_for_status().json()["text"]
        return text


async def verbalize(http: aiohttp.ClientSession, url: str, vector: NDArray[np.float32]) -> str:
    """Ours, like for like: one vector a request, built when its turn comes, greedy, as many tokens."""
    return texts_of(await through_gateway(http, url, vector[None], **GREEDY)())[0]


async def measure(ours: Stack, stock: str, checkpoint: Path, scale: Scale) -> list[Figure]:
    """Vectors/s of both, their ratio, and the bytes of a request on each engine's wire."""
    async with open_http() as http, httpx.AsyncClient(timeout=600, trust_env=False) as recipes_http:
        recipe = Recipe(checkpoint, stock, recipes_http)
        vectors = np.random.default_rng(0).standard_normal((scale.wide_requests, recipe.d_model)).astype(np.float32)
        few = vectors[: scale.recipe_requests]

        async def by_recipe() -> float:
            return await rate(len(few), *(lambda v=v: recipe.verbalize(v) for v in few), limit=IN_FLIGHT)

        async def by_us() -> float:
            jobs = (lambda v=v: verbalize(http, ours.url, v) for v in vectors)
            return await rate(len(vectors), *jobs, limit=IN_FLIGHT)

        await _check_same(recipe, http, ours.url, few)
        speed = await interleave(scale.rounds, {"recipe": by_recipe, "ours": by_us}, warm=True)
        bytes_recipe = len(recipe.body(vectors[0]))
        bytes_ours = len(Direct(verbalizer_of(ours), http).body(vectors[0], **GREEDY))
    at_least = 20 if recipe.d_model >= 8192 else 10
    name = f"verbalize, d {recipe.d_model}"
    return [
        Figure(f"{name}: public recipe", speed["recipe"], "vectors/s"),
        Figure(f"{name}: nla-serve", speed["ours"], "vectors/s"),
        Figure(f"{name}: ratio", ratios(speed["ours"], speed["recipe"]), "x", Target("at least", at_least)),
        Figure(f"{name}: bytes a request, public recipe", [bytes_recipe], "bytes"),
        Figure(f"{name}: bytes a request, nla-serve to its engine", [bytes_ours], "bytes"),
        Figure(f"{name}: bytes ratio", [bytes_recipe / bytes_ours], "x", Target("at least", 300)),
    ]


async def _check_same(recipe: Recipe, http: aiohttp.ClientSession, ours: str, vectors: NDArray[np.float32]) -> None:
    """Both sides must do the same work; bfloat16 may part them at a near tie, but not everywhere."""
    pairs = [(await recipe.verbalize(vector), await verbalize(http, ours, vector)) for vector in vectors[:4]]
    if not any(parse(theirs)[0] == our_text for theirs, our_text in pairs):
        raise RuntimeError(f"the public recipe and nla-serve give different texts: {pairs}")
