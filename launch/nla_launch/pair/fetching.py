"""Fetching several repositories of the hub at the same time: room for them, patience, and how far it is."""

import logging
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
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
"""After failures that may pass, one after the other; each file that comes to its end stays."""
PASSING: Final = frozenset({408, 429, 500, 502, 503, 504})
"""Statuses after which a later try may succeed."""
ABANDONED_S: Final = 60.0
"""After so long without a byte, nobody writes to a file any more: the hub's client gives up sooner."""
SPEAK_S: Final = 10.0


class Fetch:
    """What one repository is asked for.

    Args:
        wanted: which of its files.
        others: those that other fetches bring, by repository and path; what is to come of these is added.
    """

    def __init__(self, wanted: Wanted, others: set[tuple[str, str]]) -> None:
        self.wanted, self._stopped = wanted, Event()
        self._bars = Bars(self._stopped)
        repository = wanted.place.repository
        self._own = {name: size for name, size in wanted.to_come().items() if (repository, name) not in others}
        others |= {(repository, name) for name in self._own}
        self.size = self._left = sum(self._own.values())

    @property
    def received(self) -> float:
        """Bytes that have come, of those that were to come."""
        return min(self.size - self._left + self._bars.received, self.size)

    def run(self) -> None:
        """Fetch, and try again after what may pass, with more patience the more often nothing came.

        Raises:
            LaunchError: it did not pass.
        """
        pauses = iter(PAUSES_S)
        while not self._stopped.is_set():
            try:
                # Weights without the head would be taken for a checkpoint that has none, were the fetch ended there.
                replace(self.wanted, patterns=HEADS).fetch(self._bars.made)
                self.wanted.fetch(self._bars.made)
            except Exception as error:  # of the hub's client, its transports, the disk
                problem = f"{self.wanted.place.repository} {refusal(error, self.wanted.place)}"
                if self._is_less():
                    pauses = iter(PAUSES_S)
                if not _may_pass(error) or (pause := next(pauses, None)) is None:
                    raise LaunchError(problem) from None
                logger.warning("%s; tried again in %.0f s", problem, pause)
                self._stopped.wait(pause)
            else:
                return

    def stop(self) -> None:
        """Have it end soon."""
        self._stopped.set()

    def _is_less(self) -> bool:
        """Count anew what is left; whether files have come."""
        before = self._left
        self._left = sum(size for name, size in self._own.items() if not self.wanted.there(name))
        self._bars = Bars(self._stopped)
        return self._left < before


def fetch_all(wanted: Sequence[Wanted]) -> None:
    """Fetch from several repositories at the same time, and tell in the log how far it is.

    What comes to its end stays: a fetch that was ended, or has failed, goes on with the files that are left.

    Raises:
        LaunchError: there is not enough room, or the hub does not give it.
    """
    for repository in {one.place.repository for one in wanted}:
        _remove_abandoned(repository)
    files = set[tuple[str, str]]()
    fetches = [fetch for one in wanted if (fetch := Fetch(one, files)).size]
    if not fetches:
        return
    _check_room(fetches)
    said = ", ".join(f"{fetch.wanted.place.name} ({_size(fetch.size)})" for fetch in fetches)
    logger.info("fetching from the hub what is not here yet: %s", said)
    with ThreadPoolExecutor(len(fetches)) as pool, _progress(fetches):
        running = [pool.submit(fetch.run) for fetch in fetches]
        try:
            for done in as_completed(running):
                done.result()
        except BaseException:  # nobody waits for the others
            for fetch in fetches:
                fetch.stop()
            _abort_xet()
            raise
    logger.info("fetched all")


def _abort_xet() -> None:
    """End the transfers of the hub's other way to store files: they go on whatever their bars raise."""
    with suppress(ImportError):
        from huggingface_hub.utils._xet import abort_xet_session

        abort_xet_session()  # type: ignore[no-untyped-call]


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
            f"{names}: {_size(needed)} are to be fetched, and {folder} has room for {_size(free)}: make room,"
            " or let HF_HOME name a folder on another disk"
        )


def _may_pass(error: BaseException) -> bool:
    """Whether a later try may succeed."""
    import httpx
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    match error:
        case OfflineModeIsEnabled():
            return False
        case LocalEntryNotFoundError():
            return error.__cause__ is None or _may_pass(error.__cause__)
        case HfHubHTTPError():
            return error.response.status_code in PASSING
        case httpx.TransportError() | ConnectionError() | TimeoutError() | RuntimeError():  # the last three of Xet's
            return True
        case _:
            return isinstance(error, OSError) and error.errno is None  # a file that came with another size


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
        logger.info("fetched %s of %s, %.0f MB/s%s", _size(came), _size(total), speed / 1e6, left)


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


def _size(count: float) -> str:
    """Write a number of bytes."""
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
