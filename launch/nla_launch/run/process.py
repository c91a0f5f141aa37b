"""One child process: started in a group of its own, again when asked, its output read, stopped with all descendants."""

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from nla_launch.logs import pass_on

logger = logging.getLogger(__name__)

KEPT_LINES: Final = 40
LINE_LIMIT: Final = 2**16
POLL_S: Final = 0.05
GONE_S: Final = 5.0
PR_SET_PDEATHSIG: Final = 1
_libc: Final = ctypes.CDLL(None)


class ChildProcess:
    """A child process with its last lines of output.

    Args:
        label: who it is, for messages.
        command: argv.
        environment: variables on top of ours.
        shares: sockets that it has too, under the same file numbers.
        check: raises LaunchError where it cannot start; for before it starts again.
        level: logging level at which its output is passed on.
        hides: what no log line may show.
    """

    def __init__(
        self,
        label: str,
        command: list[str],
        environment: dict[str, str],
        *,
        shares: tuple[socket.socket, ...] = (),
        check: Callable[[], None] = lambda: None,
        level: int = logging.DEBUG,
        hides: str | None = None,
    ) -> None:
        self.label, self.check = label, check
        self.last_lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._command, self._environment, self._shares, self._level = command, environment, shares, level
        self._hides = hides
        self.started_at = 0.0
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start it. A group of its own keeps the terminal's Ctrl-C away from it: we say when it stops."""
        # A pipe of our own: asyncio's would make `wait` last as long as any descendant holds it open.
        reading, writing = os.pipe()
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=writing,
                stderr=writing,
                env={**os.environ, **self._environment},
                pass_fds=[shared.fileno() for shared in self._shares],
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        finally:
            os.close(writing)
        self.last_lines.clear()
        self.started_at = time.monotonic()
        self._reader = asyncio.create_task(self._read(reading))

    async def wait(self) -> int:
        """Wait for its end and return the exit code (negative: the signal that ended it)."""
        code = await self._started().wait()
        if self._reader is not None:
            # What it wrote last is still on its way; a descendant may hold the pipe open for ever.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self._reader), 1.0)
        return code

    async def stop(self, grace_s: float) -> None:
        """Ask it to stop, and after the grace time end it and all its descendants."""
        if self._process is None:
            return
        # To it alone: it stops its own descendants, and would take one that ends by itself for a crash.
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), grace_s)
        self._signal(signal.SIGKILL)
        await self._process.wait()
        await self._until_group_is_gone()
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)

    def kill(self) -> None:
        """End it and all its descendants at once."""
        if self._process is not None:
            self._signal(signal.SIGKILL)

    async def _until_group_is_gone(self) -> None:
        """Descendants killed a moment ago still hold their memory; give the kernel the time to end them."""
        for _ in range(int(GONE_S / POLL_S)):
            try:
                os.killpg(self._started().pid, 0)
            except ProcessLookupError:
                return
            await asyncio.sleep(POLL_S)

    def _signal(self, number: signal.Signals) -> None:
        # The group outlives its leader while a descendant lives, so this reaches orphans too.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._started().pid, number)

    def _started(self) -> asyncio.subprocess.Process:
        if self._process is None:
            raise RuntimeError(f"{self.label} was not started")
        return self._process

    async def _read(self, pipe: int) -> None:
        stream = asyncio.StreamReader(limit=LINE_LIMIT)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(stream), os.fdopen(pipe, "rb", buffering=0)
        )
        try:
            while line := await _line(stream):
                text = line.decode(errors="replace").rstrip()
                if self._hides is not None:
                    text = text.replace(self._hides, "***")
                self.last_lines.append(pass_on(logger, self.label, text, self._level))
        finally:
            transport.close()


async def _line(stream: asyncio.StreamReader) -> bytes:
    try:
        return await stream.readline()
    except ValueError:  # longer than the limit, and dropped
        return b"(a line too long to keep)\n"


def _die_with_parent() -> None:
    """Have the kernel end this child when nla-serve is gone, even by SIGKILL."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
