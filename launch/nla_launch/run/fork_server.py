"""`python -m nla_launch.run.fork_server FD`: imports SGLang once, and forks every engine from what it has imported.

Most of an engine's start, and of its memory, is that import. A fork is safe only from a process without threads and
without a CUDA context, so both are looked at before each; the process opens no sockets, and does nothing else. What it
forks sets processes of its own going by forking too, and ends with it, as it ends with nla-serve.
"""

import ctypes
import gc
import importlib
import multiprocessing
import os
import runpy
import selectors
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from nla_launch.run.messages import PACKET_BYTES, Ended, Fork, Forked, Imported, Message, decode, encode
from nla_launch.run.parent import die_with_parent

MODULES: Final = (
    "sglang.launch_server",
    "sglang.srt.entrypoints.http_server",
    "sglang.srt.managers.scheduler",
    "sglang.srt.managers.tokenizer_manager",
    "sglang.srt.managers.detokenizer_manager",
    "sglang.srt.managers.data_parallel_controller",
    "sglang.srt.model_executor.model_runner",
    "sglang.srt.models.registry",
)
"""What the processes of an engine import."""
CUDA_ERROR_NOT_INITIALIZED: Final = 3


def main() -> None:
    """Import, then fork on demand until nla-serve is gone; in a fork, run what was asked for."""
    control = socket.socket(fileno=int(sys.argv[1]))
    with CudaWatch(lambda reason: control.send(encode(Imported(reason)))):
        import_everything()
    control.send(encode(Imported(unfit())))
    wanted = Server(control).serve()
    if wanted is not None:
        _become(wanted)


def import_everything() -> None:
    """Import what engines do, and be ready to be forked."""
    gc.disable()  # while modules are loaded, collections take a third of the time and find next to nothing
    for name in MODULES:
        importlib.import_module(name)
    import setproctitle

    setproctitle.getproctitle()  # it looks for its place in memory by the environment, which forks change
    gc.collect()
    gc.freeze()  # a collection in a fork would else write to every page that is shared
    gc.enable()


class CudaWatch:
    """While it is entered, the first try to start CUDA ends this process: no fork of it could use a GPU any more.

    Args:
        tell: is told why.
    """

    def __init__(self, tell: Callable[[str], object]) -> None:
        self._tell = tell

    def __enter__(self) -> None:
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # else asking whether there is a GPU starts CUDA
        import torch

        self._start: Any = torch.cuda._lazy_init
        torch.cuda._lazy_init = self._refuse

    def __exit__(self, *exc: object) -> None:
        import torch

        torch.cuda._lazy_init = self._start

    def _refuse(self) -> None:
        self._tell("importing SGLang starts CUDA on this machine")
        os._exit(0)


def unfit() -> str | None:
    """Tell why this process must not be forked; None where it may be."""
    threads = sum(1 for _ in Path("/proc/self/task").iterdir())
    if threads > 1:
        return f"the fork server has {threads} threads"
    if _cuda_started():
        return "the fork server has started CUDA"
    sockets = sum(_is_socket(fd) for fd in Path("/proc/self/fd").iterdir())
    return f"the fork server has {sockets} sockets" if sockets > 1 else None


def _cuda_started() -> bool:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return True
    try:
        driver = ctypes.CDLL("libcuda.so.1", mode=os.RTLD_NOLOAD | os.RTLD_NOW)
    except OSError:  # not even loaded
        return False
    status: int = driver.cuDeviceGetCount(ctypes.byref(ctypes.c_int()))
    return status != CUDA_ERROR_NOT_INITIALIZED


def _is_socket(fd: Path) -> bool:
    try:
        return str(fd.readlink()).startswith("socket:")
    except FileNotFoundError:  # the one that lists them
        return False


class Server:
    """Forks, and tells of the end of what it forked.

    Args:
        control: to nla-serve.
    """

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._living: dict[int, int] = {}
        """Processes, by the file descriptor that tells of their end."""
        self._selector = selectors.PollSelector()
        self._selector.register(control, selectors.EVENT_READ)

    def serve(self) -> Fork | None:
        """Serve until nla-serve is gone (None); returns a second time, in each fork, what that is to run."""
        while True:
            for key, _ in self._selector.select():
                if key.fd in self._living:
                    self._bury(key.fd)
                    continue
                packet, outputs, _, _ = socket.recv_fds(self._control, PACKET_BYTES, 1)
                if not packet:
                    return None
                request = decode(packet)
                if isinstance(request, Fork) and self._fork(outputs[0]):
                    return request

    def _fork(self, output: int) -> bool:
        """Fork, or say why not; True in the fork."""
        refused, pid = unfit(), None
        if refused is None:
            parent = os.getpid()
            pid = os.fork()
            if pid == 0:
                self._leave(output, parent)
                return True
            end = os.pidfd_open(pid)
            self._living[end] = pid
            self._selector.register(end, selectors.EVENT_READ)
        os.close(output)
        self._say(Forked(pid, refused))
        return False

    def _leave(self, output: int, parent: int) -> None:
        """Part a fork from its parent: a session and an output of its own, and nothing of what the parent has open."""
        os.setsid()
        die_with_parent(parent)
        os.dup2(output, 1)
        os.dup2(output, 2)
        for fd in (output, self._control.detach(), *self._living):
            os.close(fd)

    def _bury(self, end: int) -> None:
        pid = self._living.pop(end)
        self._selector.unregister(end)
        os.close(end)
        _, status = os.waitpid(pid, 0)
        self._say(Ended(pid, os.waitstatus_to_exitcode(status)))

    def _say(self, message: Message) -> None:
        self._control.send(encode(message))


def _become(wanted: Fork) -> None:
    """Run an engine, whose processes are forked, too."""
    import torch

    # OpenMP read the variable when it was loaded.
    torch.set_num_threads(int(wanted.environment.get("OMP_NUM_THREADS", len(os.sched_getaffinity(0)))))
    fork_all()
    run_as_main(wanted)


def fork_all() -> None:
    """Have processes forked from here on: SGLang asks for `spawn`, which would import everything in each of its own."""
    multiprocessing.set_start_method("fork", force=True)
    multiprocessing.set_start_method = lambda *arguments, **options: None


def run_as_main(wanted: Fork) -> None:
    """Run a module as `python -m` does."""
    import setproctitle

    os.environ.clear()
    os.environ.update(wanted.environment)
    setproctitle.setproctitle(wanted.title)
    sys.argv[1:] = wanted.arguments
    sys.modules.pop(wanted.module, None)
    runpy.run_module(wanted.module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
