"""What programs use: a job and the call that does it. `nla_data` itself imports nothing that may be missing."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

from nla_data.asking.explain import Explain
from nla_data.asking.extract import Extract
from nla_data.asking.tasks import Reconstruct, ScorePairs, Verbalize
from nla_data.errors import DataError, StoppedError, UsageError
from nla_data.run import Job, Outcome, run

STOP_CHECK_S = 0.2

__all__ = [
    "DataError",
    "Explain",
    "Extract",
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
    stop = threading.Event()

    async def until_stopped() -> Outcome:
        task = asyncio.create_task(run(job))
        while not stop.is_set():
            done, _ = await asyncio.wait({task}, timeout=STOP_CHECK_S)
            if done:
                return task.result()
        task.cancel()
        return await task

    with ThreadPoolExecutor(1) as thread:
        try:
            return thread.submit(asyncio.run, until_stopped()).result()
        finally:  # where the kernel was interrupted, the thread still waits
            stop.set()
