"""`/ablate` against the `/critic` calls that it spares, all sent at once."""

import asyncio
from typing import Final

import numpy as np
import orjson
from numpy.typing import NDArray

from nla_gateway.engines.concurrency import SMALL_COMES_AGAIN_S
from nla_gateway.pair.ablation import split, upto, without
from tests.benchmarks.figures import Figure, Scale, Target, interleave, rate, ratios
from tests.benchmarks.gateway import open_http, post_json
from tests.benchmarks.reconstruct import make_texts
from tests.plain import encode
from tests.stack import Stack

SENTENCES: Final = 12
CALLS: Final = 2 * SENTENCES + 1
MORE: Final = 2
"""Times as many rounds, since each is short."""


async def measure(stack: Stack, vectors: NDArray[np.float32], scale: Scale) -> list[Figure]:
    """Texts of 12 sentences a second, by both."""
    text, pair = " ".join(make_texts(SENTENCES)), {"vectors": encode(vectors[0]), "dtype": "float32"}
    parts = split(text, "sentence")
    made = [text, "", *(without(text, part) for part in parts), *(upto(text, part) for part in parts[:-1])]
    if len(parts) != SENTENCES or len(made) != CALLS:
        raise RuntimeError(f"{len(parts)} sentences make {len(made)} texts")
    bodies = [orjson.dumps({"texts": one, **pair}) for one in made]
    async with open_http() as http:

        async def by_ablate() -> float:
            body = orjson.dumps({"texts": text, **pair})
            await asyncio.sleep(SMALL_COMES_AGAIN_S)  # else the gateway still keeps room for the single requests
            return await rate(1, lambda: post_json(http, f"{stack.url}/ablate", body))

        async def by_critic() -> float:
            calls = [lambda body=body: post_json(http, f"{stack.url}/critic", body) for body in bodies]
            return await rate(1, *calls, limit=CALLS)

        speed = await interleave(MORE * scale.rounds, {"ablate": by_ablate, "critic": by_critic})
    return [
        Figure("12 sentences by /ablate", speed["ablate"], "texts/s"),
        Figure("12 sentences by 25 /critic calls at once", speed["critic"], "texts/s"),
        Figure(
            "ratio, /ablate to /critic calls", ratios(speed["ablate"], speed["critic"]), "x", Target("at least", 1.5)
        ),
    ]
