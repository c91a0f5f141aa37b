"""Files of vectors and of texts through `nla` against the same sent by the client with all in memory."""

import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from nla_client import AsyncNLAClient
from nla_data.api import Extract, Job, Verbalize, run
from nla_data.asking.tasks import Task
from tests.benchmarks.figures import Figure, Scale, Target, interleave, rate, ratios, repeated
from tests.stack import Stack

SENTENCE: Final = "The river rose through the night, and by morning the fields stood under water."
Work = Callable[[], Awaitable[Any]]
TIMES: Final = 4
"""As many vectors as other rows take, so that the beginning and the end of a run weigh little."""


async def measure(stack: Stack, vectors: NDArray[np.float32], scale: Scale) -> list[Figure]:
    """Vectors/s of both, greedy, without scores: reading, manifest, parts and the merged file included."""
    some = repeated(vectors, TIMES * scale.requests)
    async with AsyncNLAClient(stack.url) as client:
        given = pa.table({"activation_vector": list(some)})
        task = Verbalize(temperature=0)
        speed = await _both(stack.url, task, given, lambda: client.verbalize(some, temperature=0), scale)
    return _figures("toy pair", "verbalize", "vectors/s", speed)


async def measure_texts(name: str, url: str, scale: Scale) -> list[Figure]:
    """Texts/s of both, every token of each, in float32."""
    texts = [" ".join([SENTENCE] * (1 + k % 6)) for k in range(max(16, scale.texts // 8))]
    async with AsyncNLAClient(url) as client:
        given = pa.table({"text": texts})
        task = Extract(positions="all")
        speed = await _both(url, task, given, lambda: client.extract(texts, positions="all", dtype="float32"), scale)
    return _figures(name, "extract", "texts/s", speed)


async def _both(url: str, task: Task, given: Any, by_client: Work, scale: Scale) -> dict[str, list[float]]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pq.write_table(given, folder / "in.parquet")

        async def in_memory() -> float:
            return await rate(given.num_rows, by_client)

        async def file() -> float:
            out = folder / "out.parquet"
            job = Job(task, [str(folder / "in.parquet")], str(out), [url])
            measured = await rate(given.num_rows, lambda: run(job))
            out.unlink()
            return measured

        return await interleave(scale.rounds, {"memory": in_memory, "file": file}, warm=True)


def _figures(name: str, command: str, unit: str, speed: dict[str, list[float]]) -> list[Figure]:
    ratio = ratios(speed["file"], speed["memory"])
    return [
        Figure(f"{name}, AsyncNLAClient.{command} with all in memory", speed["memory"], unit),
        Figure(f"{name}, nla {command} from file to file", speed["file"], unit),
        Figure(f"ratio, file to memory, {command}", ratio, "x", Target("at least", 0.95)),
    ]
