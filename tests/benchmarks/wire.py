"""`/verbalize` against the public recipe: client-built `input_embeds` as JSON to a stock server."""

from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np
import orjson
import pybase64
import torch
from numpy.typing import NDArray

from nla_gateway.engine import Engine
from nla_gateway.parsing import parse
from nla_gateway.settings import EngineSettings
from nla_gateway.verbalizer import Verbalizer
from tests.benchmarks.figures import Figure, Scale, Target, at_once, interleave, ratios
from tests.benchmarks.gateway import open_http
from tests.reference import ReferenceVerbalizer

IN_FLIGHT: Final = 16
ANSWER_TOKENS: Final = 16
SAMPLING: Final = {"temperature": 0, "max_new_tokens": ANSWER_TOKENS, "stop": ["</explanation>"],
                   "no_stop_trim": True, "skip_special_tokens": False}  # fmt: skip


class Recipe:
    """The public recipe's client: looks up the prompt's embeddings, puts the vector in, sends all rows as JSON."""

    def __init__(self, checkpoint: Path, url: str, http: httpx.AsyncClient) -> None:
        reference = ReferenceVerbalizer(checkpoint)
        ids = reference.prompt_ids()
        with torch.no_grad():
            self._rows = reference.model.get_input_embeddings()(torch.tensor(ids)).numpy()
        self._at = ids.index(reference.sidecar["tokens"]["injection_token_id"])
        self._scale = reference.sidecar["extraction"]["injection_scale"]
        self.d_model = self._rows.shape[1]
        self._url, self._http = url, http

    def body(self, vector: NDArray[np.float32]) -> bytes:
        rows = self._rows.copy()
        rows[self._at] = vector * (self._scale / np.linalg.norm(vector))
        payload = {"input_embeds": rows, "sampling_params": SAMPLING}
        return orjson.dumps(payload, option=orjson.OPT_SERIALIZE_NUMPY)

    async def verbalize(self, vector: NDArray[np.float32]) -> str:
        reply = await self._http.post(
            f"{self._url}/generate", content=self.body(vector), headers={"content-type": "application/json"}
        )
        text: str = reply.raise_for_status().json()["text"]
        return text


async def verbalize(http: httpx.AsyncClient, url: str, vector: NDArray[np.float32]) -> str:
    """Ours, like for like: one vector a request, greedy, as many tokens."""
    body = {"vectors": pybase64.b64encode_as_string(vector.astype("<f4").tobytes()), "dtype": "float32",
            "temperature": 0, "max_tokens": ANSWER_TOKENS}  # fmt: skip
    reply = await http.post(f"{url}/verbalize", json=body)
    text: str = reply.raise_for_status().json()["results"][0]["samples"][0]["text"]
    return text


async def measure(ours: str, stock: str, checkpoint: Path, dtype: str, scale: Scale) -> list[Figure]:
    """Vectors/s of both, their ratio, and the bytes of a request on each engine's wire."""
    async with open_http() as http:
        recipe = Recipe(checkpoint, stock, http)
        vectors = np.random.default_rng(0).standard_normal((scale.requests, recipe.d_model)).astype(np.float32)
        few = vectors[: scale.recipe_requests]

        async def by_recipe() -> float:
            _, _, seconds = await at_once(IN_FLIGHT, [lambda v=v: recipe.verbalize(v) for v in few])
            return len(few) / seconds

        async def by_us() -> float:
            _, _, seconds = await at_once(IN_FLIGHT, [lambda v=v: verbalize(http, ours, v) for v in vectors])
            return len(vectors) / seconds

        await _check_same(recipe, http, ours, few)
        speed = await interleave(scale.rounds, {"recipe": by_recipe, "ours": by_us})
    bytes_recipe, bytes_ours = len(recipe.body(vectors[0])), _engine_bytes(checkpoint, dtype, vectors[0])
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


async def _check_same(recipe: Recipe, http: httpx.AsyncClient, ours: str, vectors: NDArray[np.float32]) -> None:
    """Both sides must do the same work; bfloat16 may part them at a near tie, but not everywhere."""
    pairs = [(await recipe.verbalize(vector), await verbalize(http, ours, vector)) for vector in vectors[:4]]
    if not any(parse(theirs)[0] == our_text for theirs, our_text in pairs):
        raise RuntimeError(f"the public recipe and nla-serve give different texts: {pairs}")


def _engine_bytes(checkpoint: Path, dtype: Any, vector: NDArray[np.float32]) -> int:
    settings = EngineSettings(
        url="http://127.0.0.1:9", api_key="", checkpoint=checkpoint, model="m", dtype=dtype, context_length=1024,
        max_in_flight=1, shared_in_flight=1,
    )  # fmt: skip
    part = Verbalizer(Engine("verbalizer", settings, timeout_s=1), settings)
    return len(orjson.dumps(part.payload(part.inject(vector), dict(SAMPLING), "0.0.")))
