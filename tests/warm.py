"""`python -m MODULE` without its imports: forked from a process that has imported SGLang, where others are executed.

Most of what a stack's start costs is importing SGLang and torch: in nla-serve, in its fork server, in its gateway, and
tests start some ninety stacks. Here one process imports all that once; what a test starts is forked from it, and our
own modules that this starts in turn are forked from there, in the place of an `exec`. All else is as it is: arguments,
environment, files, signals, groups, and who is whose parent. What proves how nla-serve starts is started without it.
"""

import asyncio
import atexit
import json
import logging
import multiprocessing.util
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Final

from nla_launch.logs import NOISY
from nla_launch.plan.plan import CPU_ENVIRONMENT
from nla_launch.run.fork_server import import_everything, run_as_main
from nla_launch.run.forking import ENVIRONMENT
from nla_launch.run.messages import Fork
from nla_launch.run.parent import die_with_parent

IMPORTING: Final = {**CPU_ENVIRONMENT, "SGLANG_EXTERNAL_MODEL_PACKAGE": "nla_engine.models", **ENVIRONMENT}
READ_AT_IMPORT: Final = "SGLANG_"
"""How variables begin that decide what an import of SGLang makes."""
KEPT: Final = {
    "SGLANG_TEST_RETRACT": ("sglang.srt.managers.scheduler", "TEST_RETRACT"),
    "SYNC_TOKEN_IDS_ACROSS_TP": ("sglang.srt.layers.sampler", "SYNC_TOKEN_IDS_ACROSS_TP"),
}
"""Those of which an import keeps only whether they are set, and where: a fork sets it anew."""
WITHOUT_SGLANG: Final = ("nla_launch", "nla_gateway", "nla_engine.reference")
"""Modules that import nothing which looks at them."""
PACKET_BYTES: Final = 2**17
ROOT: Final = Path(__file__).parents[1]
ONE_AT_A_TIME: Final = threading.Lock()


def popen(command: list[str], environment: dict[str, str], **options: Any) -> subprocess.Popen[str]:
    """Start a command of ours: forked where it would import what is imported here, else executed.

    Args:
        command: argv.
        environment: all of its variables.
        options: of `subprocess.Popen`, those that WarmPopen heeds.
    """
    return WarmPopen(command, env=environment, text=True, **options)


def run_program(program: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a program's text where SGLang is imported already: its warnings would be errors in a process of tests.

    Args:
        program: the text.
        arguments: its `sys.argv[1:]`.
        variables: added to the environment.
    """
    return run("tests.program", program, *arguments, **variables)


def run(module: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """The same for a module of the tests, as `python -m` runs it."""
    command = [sys.executable, "-m", module, *arguments]
    process = popen(
        command, {**os.environ, **IMPORTING, **variables}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, cwd=ROOT,
    )  # fmt: skip
    with process:
        out, errors = process.communicate()
    return subprocess.CompletedProcess(command, process.returncode, out, errors)


class WarmPopen(subprocess.Popen[str]):
    """`subprocess.Popen`, which has `python -m MODULE` run by a fork of the process that has imported SGLang.

    Of Popen's options it then heeds those for files, the environment and the folder.
    """

    _code: int | None = None
    """Where the exit code of what was forked comes from."""

    def _execute_child(self, args: Sequence[str], *options: Any) -> None:
        pass_fds, folder, environment = options[3:6]
        environment = dict(os.environ if environment is None else environment)
        if not may_fork(args, environment):
            super()._execute_child(args, *options)  # type: ignore[misc]
            return
        p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite = options[9:15]
        request = {
            "command": list(args),
            "environment": environment,
            "folder": str(folder or Path.cwd()),
            "files": [0, 1, 2, *pass_fds],
        }
        standard = [fd if fd >= 0 else own for own, fd in enumerate((p2cread, c2pwrite, errwrite))]
        self._code, telling = os.pipe()
        with ONE_AT_A_TIME:
            server, _ = _server()
            socket.send_fds(server, [json.dumps(request).encode()], [telling, *standard, *pass_fds])
            self.pid = int(server.recv(PACKET_BYTES))
        os.close(telling)
        self._child_created = True
        self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)  # type: ignore[attr-defined]

    def _wait(self, timeout: float | None) -> int:
        if self._code is None:
            return int(super()._wait(timeout))  # type: ignore[misc]
        if self.returncode is None:
            with selectors.DefaultSelector() as selector:
                selector.register(self._code, selectors.EVENT_READ)
                if not selector.select(timeout):
                    raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
            self.returncode = int(os.read(self._code, PACKET_BYTES) or -signal.SIGKILL)
            os.close(self._code)
        return self.returncode

    def _internal_poll(self, *arguments: Any, **options: Any) -> int | None:
        if self._code is None:
            code: int | None = super()._internal_poll(*arguments, **options)  # type: ignore[misc]
            return code
        with suppress(subprocess.TimeoutExpired):
            self._wait(0)
        return self.returncode


@cache
def _server() -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """Start the process that forks; it ends with this one."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-P", "-W", "ignore", __file__, str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            env={**os.environ, **IMPORTING},
            pass_fds=[theirs.fileno()],
        )
    return ours, process


def main() -> None:
    """Import, then fork whatever is asked for until the other end is gone."""
    control = socket.socket(fileno=int(sys.argv[1]))
    import_everything()
    _policy_of_sglang()
    living: dict[int, tuple[int, int]] = {}
    with selectors.DefaultSelector() as selector:
        selector.register(control, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fd in living:
                    selector.unregister(key.fd)
                    _bury(key.fd, *living.pop(key.fd))
                elif (born := _fork_for(control)) is not None:
                    living[born[0]] = born[1:]
                    selector.register(born[0], selectors.EVENT_READ)
                else:
                    return


@cache
def _policy_of_sglang() -> asyncio.AbstractEventLoopPolicy:
    """What its import chose; first asked right after it."""
    return asyncio.get_event_loop_policy()


def _fork_for(control: socket.socket) -> tuple[int, int, int] | None:
    """Do as is asked; returns what tells of the process's end, its id, and where its exit code goes."""
    packet, received, _, _ = socket.recv_fds(control, PACKET_BYTES, 16)
    if not packet:
        return None
    told, *files = received
    request = json.loads(packet)
    numbered = dict(zip(request["files"], files, strict=True))
    folder, before = request["folder"], die_with_parent
    pid = fork(request["command"], request["environment"], folder=folder, files=numbered, before=before)
    for fd in files:
        os.close(fd)
    control.send(str(pid).encode())
    return os.pidfd_open(pid), pid, told


def _bury(end: int, pid: int, told: int) -> None:
    """Tell a process's exit code to who waits for it."""
    _, status = os.waitpid(pid, 0)
    with suppress(BrokenPipeError):
        os.write(told, str(os.waitstatus_to_exitcode(status)).encode())
    os.close(end)
    os.close(told)


def fork(
    command: Sequence[str],
    environment: dict[str, str],
    *,
    folder: str | None,
    files: dict[int, int],
    before: Callable[[], object],
    session: bool = False,
) -> int:
    """Fork a process that runs `python [-P] -m MODULE ARGUMENTS` with these files alone; returns its id.

    Args:
        command: what would be executed.
        environment: all of its variables.
        folder: where it runs; None for here.
        files: which it has, by the number that each is to have.
        before: called just before.
        session: whether it leads a session of its own.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        if session:
            os.setsid()
        before()
        _only_these_files(files)
        _forget_signals_and_logs()
        if folder is not None:
            os.chdir(folder)
        code = _run(command, environment)
    finally:
        os._exit(code)


def _only_these_files(wanted: dict[int, int]) -> None:
    """Give files their numbers, out of each other's way first, and close all others."""
    above = 1 + max(*wanted, *wanted.values())
    copies = {number: os.dup2(fd, above + turn) for turn, (number, fd) in enumerate(wanted.items())}
    for number, copy in copies.items():
        os.dup2(copy, number)
    for fd in {int(entry.name) for entry in Path("/proc/self/fd").iterdir()} - set(wanted):
        with suppress(OSError):
            os.close(fd)


def _forget_signals_and_logs() -> None:
    """Be as a new program: signals do what they do by default, and nothing is logged anywhere yet."""
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        with suppress(OSError):
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    logging.root.handlers.clear()
    logging.root.setLevel(logging.WARNING)
    for noisy in NOISY:
        logging.getLogger(noisy).setLevel(logging.NOTSET)


def _run(command: Sequence[str], environment: dict[str, str]) -> int:
    """Run a command of ours as Python does from its start to its end; returns its exit code."""
    module, *arguments = command[command.index("-m") + 1 :]
    if "-P" not in command:
        sys.path.insert(0, str(Path.cwd()))
    subprocess._fork_exec = _fork_or_execute  # type: ignore[attr-defined]
    for variable, (keeper, name) in KEPT.items():
        setattr(sys.modules[keeper], name, variable in environment)
    # uvloop starts processes by itself; what has not imported SGLang does not have it.
    asyncio.set_event_loop_policy(None if module in WITHOUT_SGLANG else _policy_of_sglang())
    atexit._clear()  # what was registered is of the process that forked
    atexit.register(logging.shutdown)
    atexit.register(multiprocessing.util._exit_function)  # type: ignore[attr-defined]
    code: object = 0
    try:
        run_as_main(Fork(module, arguments, environment, " ".join(command)))
    except SystemExit as exit_:
        code = exit_.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return code if isinstance(code, int) else int(code is not None)


_execute: Final = subprocess._fork_exec  # type: ignore[attr-defined]


def _fork_or_execute(command: Sequence[Any], *options: Any) -> int:
    """Stand in for the system's fork and exec, in a process that was forked itself."""
    close_fds, kept, folder, variables = options[1:5]
    p2cread, _, _, c2pwrite, _, errwrite, _, failing = options[5:13]
    session, before = options[14], options[20]
    words = [os.fsdecode(word) for word in command]
    environment = dict(os.environ)
    if variables is not None:
        environment = dict(os.fsdecode(variable).split("=", 1) for variable in variables)
    if not close_fds or not may_fork(words, environment):
        return int(_execute(command, *options))
    standard = {own: fd if fd >= 0 else own for own, fd in enumerate((p2cread, c2pwrite, errwrite))}
    return fork(
        words,
        environment,
        folder=folder and os.fsdecode(folder),
        files=standard | {fd: fd for fd in kept if fd != failing},
        before=before or (lambda: None),
        session=session,
    )


def may_fork(command: Sequence[str], environment: dict[str, str]) -> bool:
    """Whether a command is one of ours, and would import what was imported here."""
    if command[:1] != [sys.executable] or "-m" not in command[1:3] or "PYTHONPATH" in environment:
        return False
    if command[command.index("-m") + 1] in WITHOUT_SGLANG:
        return True
    return _read(environment) == _read(IMPORTING)


def _read(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(READ_AT_IMPORT) and name not in KEPT}


if __name__ == "__main__":
    main()
