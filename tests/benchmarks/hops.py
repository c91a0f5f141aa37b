"""What a request of one vector costs at each hop: bytes of the bodies, and processor time."""

from typing import Final

import numpy as np
import orjson
from numpy.typing import NDArray

from nla_client.wire import encode_vector
from nla_gateway.roles import Role
from tests.benchmarks.figures import Figure, Job, Scale, at_once, cpu_s, repeated
from tests.benchmarks.gateway import Direct, open_http, post
from tests.plain import verbalizer_of
from tests.stack import Stack, engine_of

IN_FLIGHT: Final = 16
TOKENS: Final = 16
"""Of an answer."""


async def measure(stack: Stack, vectors: NDArray[np.float32], scale: Scale) -> list[Figure]:
    """Of a pair's verbalizer, whose vectors [N, d_model] these are."""
    asked = {"dtype": "bfloat16", "temperature": 0, "max_tokens": TOKENS}
    bodies = [
        orjson.dumps({"vectors": encode_vector(vector, "bfloat16"), **asked})
        for vector in repeated(vectors, scale.requests)
    ]
    processes = {"of the gateway": stack.gateway(), "of the engine's HTTP process": engine_of(stack, Role.AV)}
    spent: dict[str, list[float]] = {name: [] for name in processes}
    answers: list[int] = []
    async with open_http() as http:
        direct = Direct(verbalizer_of(stack), http)
        to_engine = direct.body(vectors[0], temperature=0, max_tokens=TOKENS)
        from_engine = len(await direct.send(to_engine))

        def asking(body: bytes) -> Job:
            async def ask() -> None:
                answers.append(len(await post(http, f"{stack.url}/verbalize", body)))

            return ask

        for _ in range(scale.rounds):
            before = {name: cpu_s(process) for name, process in processes.items()}
            await at_once(IN_FLIGHT, [asking(body) for body in bodies])
            for name, process in processes.items():
                spent[name].append(1000 * (cpu_s(process) - before[name]) / len(bodies))
    title = f"a request of one vector, d {vectors.shape[1]}"
    sizes = {
        "to the gateway": len(bodies[0]), "of its answer": float(np.median(answers)),
        "to the engine": len(to_engine), "of the engine's answer": from_engine,
    }  # fmt: skip
    rows = [Figure(f"{title}: bytes {which}", [float(size)], "bytes") for which, size in sizes.items()]
    return rows + [Figure(f"{title}: processor time {whose}", some, "ms") for whose, some in spent.items()]
