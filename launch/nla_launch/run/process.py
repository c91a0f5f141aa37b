"""One child process: started in a group of its own, again when asked, its output read, stopped with all descendants."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import IO, Final, Protocol

from nla_launch.run.forking import ForkServer, UnfitError
from nla_launch.run.messages import Fork
from nla_launch.run.output import Output
from nla_launch.run.parent import die_with_parent

logger = logging.getLogger(__name__)

POLL_S: Final = 0.05
GONE_S: Final = 5.0


class Running(Protocol):
    """A process that was started, whoever its parent is."""

    @property
    def pid(self) -> int:
        """Its process id, which is its group's, too."""

    async def wait(self) -> int:
        """Wait for its end and return the exit code."""

    def terminate(self) -> None:
        """Ask it to end."""


class ChildProcess:
    """A child process with its last lines of output.

    Args:
        label: who it is, for messages.
        command: argv; `python -P -m MODULE` and arguments where it may be forked.
        environment: variables on top of ours.
        shares: sockets and files that it has too, under the same file numbers.
        check: raises LaunchError where it cannot start; for before it starts again.
        level: logging level at which its output is passed on.
        hides: what no log line may show.
        forks: forks it; where that cannot be, it imports everything for itself.
    """

    def __init__(
        self,
        label: str,
        command: list[str],
        environment: dict[str, str],
        *,
        shares: tuple[socket.socket | IO[bytes], ...] = (),
        check: Callable[[], None] = lambda: None,
        level: int = logging.DEBUG,
        hides: str | None = None,
        forks: ForkServer | None = None,
    ) -> None:
        self.label, self.check = label, check
        self._command, self._environment, self._shares, self._forks = command, environment, shares, forks
        self._output = Output(label, level, hides)
        self.started_at = 0.0
        self._process: Running | None = None
        self._reader: asyncio.Task[None] | None = None

    @property
    def last_lines(self) -> deque[str]:
        """What it printed last."""
        return self._output.last_lines

    async def start(self) -> None:
        """Start it. A group of its own keeps the terminal's Ctrl-C away from it: we say when it stops."""
        self.started_at = time.monotonic()
        # A pipe of our own: asyncio's would make `wait` last as long as any descendant holds it open.
        reading, writing = os.pipe()
        try:
            self._process = await self._spawn(writing)
        except BaseException:
            os.close(reading)
            raise
        finally:
            os.close(writing)
        self.last_lines.clear()
        self._reader = asyncio.create_task(self._output.read(reading))

    async def _spawn(self, output: int) -> Running:
        environment = {**os.environ, **self._environment}
        if self._forks is not None:
            _python, _safe_path, _run_module, module, *arguments = self._command
            try:
                return await self._forks.fork(Fork(module, arguments, environment, f"sglang::{self.label}"), output)
            except UnfitError as error:
                logger.info("engines import for themselves: %s", error)
        return await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            pass_fds=[shared.fileno() for shared in self._shares],
            start_new_session=True,
            preexec_fn=die_with_parent,
        )

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

    def _started(self) -> Running:
        if self._process is None:
            raise RuntimeError(f"{self.label} was not started")
        return self._process
