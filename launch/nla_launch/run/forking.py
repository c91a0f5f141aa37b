"""The fork server as nla-serve sees it: started, asked for forks, and started anew where it is gone."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
from collections import deque
from typing import Final

from nla_launch.run.messages import PACKET_BYTES, Ended, Fork, Forked, Imported, decode, encode
from nla_launch.run.output import Output
from nla_launch.run.parent import die_with_parent

logger = logging.getLogger(__name__)

LABEL: Final = "fork server"
ENVIRONMENT: Final = {"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
"""Of the fork server: with more threads allowed, OpenBLAS starts them while it is imported."""
GONE: Final = -int(signal.SIGKILL)
"""The exit code of what ended with the fork server: the kernel kills it."""


class UnfitError(Exception):
    """Nothing can be forked, and an engine must import for itself. The text says why."""


class ForkedProcess:
    """A process that was forked, with those of `asyncio.subprocess.Process`'s methods that are needed."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.code: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def wait(self) -> int:
        """Wait for its end and return the exit code (negative: the signal that ended it)."""
        return await asyncio.shield(self.code)

    def terminate(self) -> None:
        """Send SIGTERM, to it alone.

        Raises:
            ProcessLookupError: it has ended.
        """
        if self.code.done():
            raise ProcessLookupError
        os.kill(self.pid, signal.SIGTERM)


class ForkServer:
    """A process that has imported SGLang and forks engines from there. It ends with this one."""

    def __init__(self) -> None:
        self._environment: dict[str, str] = {}
        self._life: _Life | None = None
        self._unfit: str | None = None

    def start(self, environment: dict[str, str]) -> None:
        """Start it; it imports while this process goes on.

        Args:
            environment: variables on top of ours, for the import.
        """
        self._environment = environment
        self._life = _Life(environment)

    async def fork(self, request: Fork, output: int) -> ForkedProcess:
        """Fork a process, as soon as everything is imported.

        Args:
            request: what it is to run.
            output: file descriptor for all that it prints.

        Raises:
            UnfitError: that cannot be.
        """
        if self._unfit is not None:
            raise UnfitError(self._unfit)
        if self._life is None or self._life.gone:
            self._life = _Life(self._environment)
        life = self._life
        self._unfit = await life.imported()
        if self._unfit is not None:
            life.close()
            raise UnfitError(self._unfit)
        return await life.fork(request, output)

    def close(self) -> None:
        """End it, and with it what it has forked."""
        if self._life is not None:
            self._life.close()
            self._life = None


class _Life:
    """The fork server from one start to its end."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.gone = False
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.setblocking(False)
        self._control.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, PACKET_BYTES)
        self._pipe, writing = os.pipe()
        try:
            self._process = subprocess.Popen(  # noqa: S603 - our own command
                [sys.executable, "-P", "-m", "nla_launch.run.fork_server", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=writing,
                stderr=writing,
                env={**os.environ, **environment, **ENVIRONMENT},
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                preexec_fn=die_with_parent,  # noqa: PLW1509 - one system call
            )
        finally:
            theirs.close()
            os.close(writing)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._imported: asyncio.Future[str | None] | None = None
        self._asked: deque[asyncio.Future[ForkedProcess]] = deque()
        self._living: dict[int, ForkedProcess] = {}
        self._reader: asyncio.Task[None] | None = None

    async def imported(self) -> str | None:
        """Wait until everything is imported; returns why it cannot fork, or None.

        Raises:
            UnfitError: it ended instead.
        """
        if self._imported is None:
            self._loop = asyncio.get_running_loop()
            self._imported = self._loop.create_future()
            self._reader = self._loop.create_task(Output(LABEL).read(self._pipe))
            self._loop.add_reader(self._control, self._receive)
        return await asyncio.shield(self._imported)

    async def fork(self, request: Fork, output: int) -> ForkedProcess:
        """Ask for a fork.

        Raises:
            UnfitError: it says no, or ended.
        """
        answer: asyncio.Future[ForkedProcess] = asyncio.get_running_loop().create_future()
        self._asked.append(answer)
        with contextlib.suppress(OSError):  # it has just ended: the control will say so
            socket.send_fds(self._control, [encode(request)], [output])
        return await answer

    def close(self) -> None:
        """End it."""
        if not self.gone:
            self._process.kill()
            self._end()
        if self._reader is not None:
            self._reader.cancel()

    def _receive(self) -> None:
        try:
            packet = self._control.recv(PACKET_BYTES)
        except BlockingIOError:
            return
        except OSError:
            packet = b""
        if not packet:
            self._end()
            return
        match decode(packet):
            case Imported(unfit) if self._imported is not None:
                self._imported.set_result(unfit)
            case Forked(pid, refused):
                self._answer(pid, refused)
            case Ended(pid, code):
                self._living.pop(pid).code.set_result(code)

    def _answer(self, pid: int | None, refused: str | None) -> None:
        answer = self._asked.popleft()
        if pid is None:
            if not answer.done():
                answer.set_exception(UnfitError(str(refused)))
            return
        process = self._living[pid] = ForkedProcess(pid)
        if answer.done():  # nobody waits for it any more
            os.kill(pid, signal.SIGKILL)
        else:
            answer.set_result(process)

    def _end(self) -> None:
        """Note that it is gone, and with it all that it forked."""
        self.gone = True
        if self._loop is None:  # nobody reads it
            os.close(self._pipe)
        elif not self._loop.is_closed():
            self._loop.remove_reader(self._control)
        self._control.close()
        code = self._process.wait()
        reason = f"the {LABEL} has ended with code {code}"
        if self._living:
            logger.warning("%s, and its engines with it", reason)
        for answer in self._asked:
            if not answer.done():
                answer.set_exception(UnfitError(reason))
        if self._imported is not None and not self._imported.done():
            self._imported.set_exception(UnfitError(reason))
            self._imported.exception()  # whoever waits is told; nobody has to
        for process in self._living.values():
            process.code.set_result(GONE)
