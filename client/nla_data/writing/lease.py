"""Keeps a second run away where files cannot be locked: on object storage, and on disks without locks.

Each run writes a claim of its own and renews it. Whoever sees another's that is renewed goes; where two see each
other's at once, the later goes. A claim that is not renewed any more is of a run that was killed, and is taken away.
A run whose claim was taken away stops before it writes. Clocks of two machines are never compared.
"""

import contextlib
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from pyarrow import fs

from nla_data.errors import StoppedError, UsageError
from nla_data.reading.files import reason

CLAIM: Final = "_claim-"
RENEW_S: Final = 5.0
LIFETIME_S: Final = 30.0
"""A claim that was not renewed for so long counts no more."""
_LOOK_S: Final = 1.0


@dataclass(frozen=True)
class Claim:
    """One that is held, for all who write: the run, and workers of its own, to whom it can be pickled.

    Args:
        filesystem: Of pyarrow.
        path: Of the claim.
        out: What messages call the output.
    """

    filesystem: Any
    path: str
    out: str

    def is_there(self) -> bool:
        """Whether nobody has taken it away; raises OSError where that cannot be seen."""
        return bool(self.filesystem.get_file_info(self.path).type == fs.FileType.File)

    def check(self) -> None:
        """See that it is still there.

        Raises:
            StoppedError: it is not: the run has ended, or another one took it for dead.
        """
        try:
            is_there = self.is_there()
        except OSError as error:
            raise StoppedError(f"{self.out}: {reason(error)}; mend it, and run the same command again") from error
        if not is_there:
            raise StoppedError(f"{self.out}: another run may have taken over; let it end, and run this command again")


class Lease:
    """A claim to a folder, from `take` to `end`.

    Args:
        filesystem: Of pyarrow.
        folder: A path on it.
        out: What messages call it.
        write: Writes a file, whole or not at all.
    """

    def __init__(self, filesystem: Any, folder: str, out: str, write: Callable[[str, bytes], None]) -> None:
        self._filesystem, self._folder, self._out, self._write = filesystem, folder, out, write
        # Names are in the order of time, so that of two that come at once the first one stays.
        self._name = f"{CLAIM}{time.time_ns():020d}-{uuid.uuid4().hex}"
        self._claim = Claim(filesystem, f"{folder}/{self._name}", out)
        self._content = f"{socket.gethostname()} {os.getpid()}\n".encode()
        self._over = threading.Event()
        self._is_claimed = False
        self._renewing = threading.Lock()

    @contextlib.contextmanager
    def held(self, stopped: Callable[[], bool]) -> Iterator[Claim]:
        """Hold it for the length of a block; gives what is looked at before each write.

        Raises:
            UsageError: another run holds one.
            StoppedError: it cannot be written, or `stopped` says so.
        """
        self._renew()
        thread = threading.Thread(target=self._keep, name="nla-lease", daemon=True)
        thread.start()
        try:
            self._wait_for_others(stopped)
            yield self._claim
        finally:
            self._over.set()
            with self._renewing, contextlib.suppress(OSError):
                self._filesystem.delete_file(self._claim.path)

    def _keep(self) -> None:
        while not self._over.wait(RENEW_S):
            with contextlib.suppress(OSError, StoppedError):  # the next time
                self._renew()

    def _renew(self) -> None:
        with self._renewing:
            if self._over.is_set() or (self._is_claimed and not self._claim.is_there()):
                return
            self._write(self._name, self._content)
            self._is_claimed = True

    def _wait_for_others(self, stopped: Callable[[], bool]) -> None:
        """Until there are none, or it is clear that one lives."""
        seen: dict[str, tuple[int, float]] = {}
        alive_since: dict[str, float] = {}
        while others := self._others():
            now = time.monotonic()
            for name, renewed in others.items():
                before, since = seen.setdefault(name, (renewed, now))
                if renewed != before:
                    seen[name] = renewed, now
                    alive_since.setdefault(name, now)
                elif now - since > LIFETIME_S:
                    self._remove(name)
            living = {name: since for name, since in alive_since.items() if name in others}
            # A later one that has come at the same time goes of itself.
            if any(name < self._name or now - since > 3 * RENEW_S for name, since in living.items()):
                raise UsageError(f"{self._out}: another run is writing it; let it end, or stop it")
            if stopped():
                raise StoppedError("stopped")
            time.sleep(_LOOK_S)

    def _others(self) -> dict[str, int]:
        """Claims of others that may live, with the time of the storage at which they were renewed."""
        infos = self._filesystem.get_file_info(fs.FileSelector(self._folder, allow_not_found=True))
        claims = {info.base_name: info.mtime_ns or 0 for info in infos if info.base_name.startswith(CLAIM)}
        own = claims.pop(self._name, 0)
        for name, renewed in list(claims.items()):
            if own - renewed > 2 * LIFETIME_S * 10**9:
                self._remove(name)
                del claims[name]
        return claims

    def _remove(self, name: str) -> None:
        with contextlib.suppress(OSError):
            self._filesystem.delete_file(f"{self._folder}/{name}")
