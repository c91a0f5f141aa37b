"""What programs use: a job and the call that does it. `nla_data` itself imports nothing that may be missing."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

from nla_data.errors import DataError, StoppedError, UsageError
from nla_data.run import Job, Outcome, run
from nla_data.tasks import Reconstruct, ScorePairs, Verbalize

__all__ = [
    "DataError",
    "Job",
    "Outcome",
    "Reconstruct",
    "ScorePairs",
    "StoppedError",
    "UsageError",
    "Verbalize",
    "run",
    "run_job",
]


def run_job(job: Job) -> Outcome:
    """Do a job, or what is left of it, as the command `nla` does; from notebooks, too. `run` is the same with `await`.

    Raises:
        UsageError: the input, the output, the settings or the server are not what they should be.
        StoppedError: it cannot go on now; the same job goes on from there.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(run(job))
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, run(job)).result()
