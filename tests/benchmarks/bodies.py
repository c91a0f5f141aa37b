"""Wrong bodies as large as any, against right ones: what each costs the gateway."""

import logging
from collections.abc import Iterator
from typing import Final

import numpy as np
import orjson
from numpy.typing import NDArray

from tests.benchmarks.figures import Figure, Scale, Target, cpu_s, ratios, repeated
from tests.benchmarks.reconstruct import make_texts
from tests.bodies import PLACES, padded, wrong_bodies
from tests.plain import encode
from tests.stack import Stack

logger = logging.getLogger("bench")

JSON: Final = {"content-type": "application/json"}
REFUSED: Final = (400, 413, 503)
"""The last where only its size would have been wrong, and the pair has no source."""
MEASURED: Final = (PLACES[0], *PLACES[4:6])
"""One of each form; the tests have all."""
SENTENCES: Final = 16
"""Of a text to reconstruct, which comes to a third of the tokens that it may have."""


def measure(stack: Stack, vectors: NDArray[np.float32], scale: Scale) -> list[Figure]:
    """CPU seconds of the gateway's process, from the body's first byte to the answer, of the slowest of each kind."""
    right, wrong = Costs((200,)), Costs(REFUSED)
    for _ in range(scale.body_rounds):
        right.measure(stack, _right(vectors, scale))
        wrong.measure(stack, _wrong(scale.body_bytes))
    slowest_right, slowest_wrong = right.slowest(), wrong.slowest()
    name = f"bodies of {scale.body_bytes // 2**20} MiB, CPU of the gateway"
    return [
        Figure(f"{name}: slowest right one", [1000 * s for s in slowest_right], "ms"),
        Figure(f"{name}: slowest wrong one", [1000 * s for s in slowest_wrong], "ms"),
        Figure(f"{name}: ratio, wrong to right", ratios(slowest_wrong, slowest_right), "x", Target("at most", 1.0)),
    ]


def _right(vectors: NDArray[np.float32], scale: Scale) -> Iterator[tuple[str, str, bytes]]:
    """Path, name and body of requests of as many items as may be, each made as large as may be by white space."""
    count = scale.body_items
    sentences = make_texts(count * SENTENCES)
    calls = {
        "/verbalize": {
            "vectors": [encode(vector) for vector in repeated(vectors, count)], "dtype": "float32", "max_tokens": 1,
        },
        "/reconstruct": {"texts": [" ".join(sentences[k::count]) for k in range(count)]},
    }  # fmt: skip
    for path, call in calls.items():
        yield path, "a right one", padded(orjson.dumps(call), scale.body_bytes)


def _wrong(size: int) -> Iterator[tuple[str, str, bytes]]:
    for path, field in MEASURED:
        for name, body in wrong_bodies(field, size):
            yield path, name, body


class Costs:
    """What bodies cost, round by round.

    Args:
        expected: the statuses of their answers.
    """

    def __init__(self, expected: tuple[int, ...]) -> None:
        self._expected = expected
        self._seconds: dict[tuple[str, str], list[float]] = {}

    def measure(self, stack: Stack, bodies: Iterator[tuple[str, str, bytes]]) -> None:
        """Send each once: path, name and body."""
        gateway = stack.gateway()
        for path, name, body in bodies:
            before = cpu_s(gateway)
            reply = stack.http.post(path, content=body, headers=JSON)
            self._seconds.setdefault((path, name), []).append(cpu_s(gateway) - before)
            if reply.status_code not in self._expected:
                raise RuntimeError(f"{path}, {name}: {reply.status_code} {reply.text[:300]}")

    def slowest(self) -> list[float]:
        """Seconds of the body that costs most by its median."""
        name, seconds = max(self._seconds.items(), key=lambda item: float(np.median(item[1])))
        logger.info("slowest: %s, %s", *name)
        return seconds
