"""Fetching several repositories of the hub at the same time: room for them, patience, and how far it is."""

import logging
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread
from typing import Final

from nla_launch.errors import LaunchError
from nla_launch.pair.bars import Bars
from nla_launch.pair.hub import Wanted, refusal
from nla_launch.pair.value_heads import FILES as HEADS

logger = logging.getLogger(__name__)

PAUSES_S: Final = (5.0, 15.0, 45.0, 120.0)
"""After failures that may pass; each file that comes to its end stays."""
PASSING: Final = frozenset({408, 429, 500, 502, 503, 504})
"""Statuses after which a later try may succeed."""
ABANDONED_S: Final = 60.0
"""After so long without a byte, nobody writes to a file any more: the hub's client gives up sooner."""
SPEAK_S: Final = 10.0


class Fetch:
    """What one repository is asked for.

    Args:
        wanted: which of its files.
    """

    def __init__(self, wanted: Wanted) -> None:
        self.wanted, self._bars = wanted, Bars()
        self.size = self._left = self._to_come()

    @property
    def received(self) -> float:
        """Bytes that have come, of those that were to come."""
        return min(self.size - self._left + self._bars.received, self.size)

    def run(self) -> None:
        """Fetch, and try again after what may pass.

        Raises:
            LaunchError: it did not.
        """
        for pause in (*PAUSES_S, None):
            self._left, self._bars = self._to_come(), Bars()
            try:
                # Weights without the head would be taken for a checkpoint that has none, were the fetch ended there.
                replace(self.wanted, patterns=HEADS).fetch()
                self.wanted.fetch(self._bars.made)
            except Exception as error:  # of the hub's client, its transports, the disk
                problem = f"{self.wanted.place.repository} {refusal(error, self.wanted.place)}"
                if pause is None or not _may_pass(error):
                    raise LaunchError(problem) from None
                logger.warning("%s; tried again in %.0f s", problem, pause)
                time.sleep(pause)
            else:
                return

    def _to_come(self) -> int:
        return sum(file.size for file in self.wanted.to_come())


def fetch_all(wanted: Sequence[Wanted]) -> None:
    """Fetch from several repositories at the same time, and tell in the log how far it is.

    What comes to its end stays: a fetch that was ended, or has failed, goes on with the files that are left.

    Raises:
        LaunchError: there is not enough room, or the hub does not give it.
    """
    fetches = [fetch for one in dict.fromkeys(wanted) if (fetch := Fetch(one)).size]
    if not fetches:
        return
    for fetch in fetches:
        _remove_abandoned(fetch.wanted.place.repository)
    _check_room(fetches)
    said = ", ".join(f"{fetch.wanted.place.name} ({gigabytes(fetch.size)})" for fetch in fetches)
    logger.info("fetching from the hub what is not here yet: %s", said)
    with ThreadPoolExecutor(len(fetches)) as pool, _progress(fetches):
        for done in [pool.submit(fetch.run) for fetch in fetches]:
            done.result()
    logger.info("fetched all")


def _check_room(fetches: Sequence[Fetch]) -> None:
    """Check that what is to come has room on the disk.

    Raises:
        LaunchError: it has not.
    """
    from huggingface_hub import constants

    folder, needed = Path(constants.HF_HUB_CACHE), sum(fetch.size for fetch in fetches)
    there = next(above for above in (folder, *folder.parents) if above.is_dir())
    free = shutil.disk_usage(there).free
    if free < needed:
        names = " and ".join(fetch.wanted.place.name for fetch in fetches)
        raise LaunchError(
            f"{names}: {gigabytes(needed)} are to be fetched, and {folder} has room for {gigabytes(free)}: make room,"
            " or let HF_HOME name a folder on another disk"
        )


def _may_pass(error: Exception) -> bool:
    import httpx
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in PASSING
    return isinstance(error, httpx.TransportError | LocalEntryNotFoundError)


@contextmanager
def _progress(fetches: Sequence[Fetch]) -> Iterator[None]:
    """Tell in the log how far fetches are, every few seconds."""
    ended = Event()
    speaking = Thread(target=_tell, args=(fetches, ended), daemon=True)
    speaking.start()
    try:
        yield
    finally:
        ended.set()
        speaking.join()


def _tell(fetches: Sequence[Fetch], ended: Event) -> None:
    begun, total = time.monotonic(), sum(fetch.size for fetch in fetches)
    while not ended.wait(SPEAK_S):
        came = sum(fetch.received for fetch in fetches)
        speed = came / (time.monotonic() - begun)
        left = f", about {_duration((total - came) / speed)} left" if speed else ""
        logger.info("fetched %s of %s, %.0f MB/s%s", gigabytes(came), gigabytes(total), speed / 1e6, left)


def _remove_abandoned(repository: str) -> None:
    """Remove what fetches that were ended have left of files: nothing goes on with it, and it takes room."""
    from filelock import FileLock, Timeout
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    name = repo_folder_name(repo_id=repository, repo_type="model")
    locks = Path(constants.HF_HUB_CACHE) / ".locks" / name
    for left in (Path(constants.HF_HUB_CACHE) / name / "blobs").glob("*.incomplete"):
        with suppress(OSError, Timeout, NotImplementedError):
            if time.time() - left.stat().st_mtime < ABANDONED_S:
                continue
            with FileLock(locks / f"{left.name.partition('.')[0]}.lock", timeout=0):  # whoever writes to it holds it
                left.unlink()


def gigabytes(count: float) -> str:
    """Write a number of bytes."""
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
