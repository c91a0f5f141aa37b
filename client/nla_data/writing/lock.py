"""Keeps a second run on this machine away from a folder, by a lock that goes with the process."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from nla_data.errors import UsageError
from nla_data.reading.files import reason

LOCK: Final = "_lock"


@contextlib.contextmanager
def folder(path: Path, out: str) -> Iterator[bool]:
    """Lock a folder, which is made where it is missing; gives whether locks are there at all.

    Raises:
        UsageError: there is a run already, or the folder cannot be written.
    """
    is_new = not path.exists()
    try:
        path.mkdir(parents=True, exist_ok=True)
        handle = os.open(path / LOCK, os.O_CREAT | os.O_RDWR)
    except OSError as error:
        raise UsageError(f"{out}: cannot be written: {reason(error)}") from error
    try:
        is_locked = _lock(handle, path / LOCK, out)
        try:
            yield is_locked
        finally:
            _remove_alone(path, folder_too=is_new)
    finally:
        os.close(handle)


def _lock(handle: int, lock: Path, out: str) -> bool:
    try:
        import fcntl
    except ImportError:  # not on Windows
        return False
    busy = UsageError(f"{out}: another run is writing it; let it end, or stop it")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise busy from None
    except OSError:
        return False  # a file system without locks
    if not lock.exists() or lock.stat().st_ino != os.fstat(handle).st_ino:
        raise busy  # one that has just ended took the lock's file away
    return True


def _remove_alone(path: Path, *, folder_too: bool) -> None:
    """A run that was refused leaves nothing behind."""
    with contextlib.suppress(OSError):
        if [entry.name for entry in path.iterdir()] == [LOCK]:
            (path / LOCK).unlink()
            if folder_too:
                path.rmdir()
