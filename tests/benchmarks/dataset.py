"""A file of vectors through `nla` against the same vectors sent by the client with all in memory."""

import tempfile
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from nla_client import AsyncNLAClient
from nla_data.api import Job, Verbalize, run
from tests.benchmarks.figures import Figure, Scale, Target, interleave, rate, ratios, repeated
from tests.stack import Stack

TIMES: Final = 8
"""As many vectors as other rows take, so that the beginning and the end of a run weigh little."""


async def measure(stack: Stack, vectors: NDArray[np.float32], scale: Scale) -> list[Figure]:
    """Vectors/s of both, greedy, without scores: reading, manifest, parts and the merged file included."""
    some = repeated(vectors, TIMES * scale.requests)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pq.write_table(pa.table({"activation_vector": list(some)}), folder / "in.parquet")
        async with AsyncNLAClient(stack.url) as client:

            async def in_memory() -> float:
                return await rate(len(some), lambda: client.verbalize(some, temperature=0))

            async def file() -> float:
                out = folder / "out.parquet"
                job = Job(Verbalize(temperature=0), [str(folder / "in.parquet")], str(out), [stack.url])
                measured = await rate(len(some), lambda: run(job))
                out.unlink()
                return measured

            speed = await interleave(scale.rounds, {"memory": in_memory, "file": file}, warm=True)
    return [
        Figure("demo pair, AsyncNLAClient with all in memory", speed["memory"], "vectors/s"),
        Figure("demo pair, nla verbalize from file to file", speed["file"], "vectors/s"),
        Figure("ratio, file to memory", ratios(speed["file"], speed["memory"]), "x", Target("at least", 0.95)),
    ]
