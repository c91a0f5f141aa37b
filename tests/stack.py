"""Starts the real thing for tests: `nla-serve` as a process, with real SGLang engines behind it."""

import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import psutil

from nla_gateway.engines.pool import EnginePool
from nla_gateway.pair.verbalizer import Verbalizer
from nla_gateway.roles import Role
from nla_gateway.settings import EngineSettings, Settings
from nla_gateway.telemetry.metrics import Metrics
from nla_launch.plan.plan import CPU_ENVIRONMENT
from tests.warm import popen

START_TIMEOUT_S: Final = 420.0
STOP_TIMEOUT_S: Final = 60.0
ON_CPU: Final = CPU_ENVIRONMENT
"""Run a stock SGLang on any CPU: only the platform is ours, the plugin stays out without NLA_ENGINE_ROLE."""

STAND_IN: Final = "package:nla_launch/toy/verbalizer"
"""The toy pair has no base model: one of its form is read in its place, for what needs a source."""

A_SECOND_THREAD: Final = """
import sys, threading, time
if "nla_launch.run.fork_server" in sys.orig_argv:
    threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()
"""


@dataclass
class Stack:
    """A running nla-serve."""

    url: str
    port: int
    process: subprocess.Popen[str]
    log: Path
    http: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        # No limits: to keep them httpcore closes connections that another thread has begun to use (its issue 1110).
        # Whom a certificate is trusted from is the business of the tests that are about it.
        self.http = httpx.Client(base_url=self.url, timeout=120, limits=httpx.Limits(), trust_env=False, verify=False)  # noqa: S501

    def log_text(self) -> str:
        return self.log.read_text(errors="replace")

    def gateway(self) -> psutil.Process:
        """The gateway's process."""
        children = psutil.Process(self.process.pid).children()
        return next(child for child in children if "nla_gateway" in words_of(child))

    def settings(self) -> Settings:
        """The gateway's settings: addresses and keys of the engines."""
        gateway = self.gateway()
        words = words_of(gateway)
        descriptor = words[words.index("--settings") + 1]
        return Settings.model_validate_json(Path(f"/proc/{gateway.pid}/fd/{descriptor}").read_bytes())

    def wait_ready(self) -> None:
        """Wait for the ready line on stdout; fail with the log's end where it never comes."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if line.strip() != f"nla-serve ready on {self.url}":
            code = self.process.wait(STOP_TIMEOUT_S)
            raise AssertionError(f"nla-serve printed {line!r}, exit code {code}\n{self.log_text()[-6000:]}")

    def stop(self, with_signal: int = signal.SIGINT) -> int:
        """Stop it as a user would and return the exit code; fail where a process or the port stays behind."""
        family = self.family()
        self.process.send_signal(with_signal)
        code = self.process.wait(STOP_TIMEOUT_S)
        assert_gone(family)
        assert_port_free(self.port)
        return code

    def family(self) -> list[psutil.Process]:
        """All processes below nla-serve, and itself."""
        try:
            parent = psutil.Process(self.process.pid)
            return [parent, *parent.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []


def detached_verbalizer(settings: EngineSettings) -> Verbalizer:
    """The gateway's half of a verbalizer, not connected to any engine: for the payloads that it forms."""
    return Verbalizer(EnginePool(Role.AV.label, settings, Metrics()), settings)


def states_of(stack: Stack) -> dict[str, str]:
    try:
        engines: dict[str, Any] = stack.http.get("/ready", timeout=20).json()["engines"]
    except httpx.HTTPError:
        return {}
    return {label: engine["state"] for label, engine in engines.items()}


def engine_of(stack: Stack, role: Role) -> psutil.Process:
    """An engine's main process: forked it has a title, started by itself a variable of its own."""
    family, title = stack.family(), f"sglang::{role.label}"
    forked = [child for child in family if title in " ".join(child.cmdline())]
    return forked[0] if forked else next(one for one in family if one.environ().get("NLA_ENGINE_ROLE") == role)


def words_of(process: psutil.Process) -> list[str]:
    """A command line in words, also where it is a title."""
    return " ".join(process.cmdline()).split()


def fork_server_of(stack: Stack) -> psutil.Process:
    """The process that forks the engines."""
    return next(child for child in stack.family() if "nla_launch.run.fork_server" in words_of(child))


def scheduler_of(stack: Stack, role: Role) -> psutil.Process:
    """The process of an engine that computes, or the first of them."""
    return next(iter(schedulers_of(stack, role)))


def schedulers_of(stack: Stack, role: Role) -> list[psutil.Process]:
    """The processes of an engine that compute, one a replica and GPU."""
    children = engine_of(stack, role).children(recursive=True)
    return [child for child in children if "sglang::scheduler" in " ".join(child.cmdline())]


def without_forks(folder: Path) -> dict[str, str]:
    """Variables with which nothing can be forked, as on some machines, and engines import for themselves."""
    (folder / "sitecustomize.py").write_text(A_SECOND_THREAD)
    return {"PYTHONPATH": f"{folder}:{os.environ.get('PYTHONPATH', '')}"}


_PORTS: Final = itertools.count(20_000 + os.getpid() * 1009 % 12_000)
"""Below those that the kernel gives away by itself: what is free now is so when it is taken, too."""


def free_port() -> int:
    """A port that nobody has, and that this process gives out once."""
    for port in _PORTS:
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError


def start(
    log: Path, *arguments: str, env: dict[str, str] | None = None, port: int | None = None, warm: bool = True
) -> Stack:
    """Start nla-serve and return at once; not warm, it and all that it starts import everything for themselves."""
    port = port or free_port()
    command = [sys.executable, "-m", "nla_launch", "--port", str(port), *arguments]
    environment = {**os.environ, "NLA_API_KEY": "", **(env or {})}
    with log.open("w") as errors:
        if warm:
            process = popen(command, environment, stdout=subprocess.PIPE, stderr=errors)
        else:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment)
    scheme = "https" if "--tls-cert" in arguments else "http"
    return Stack(f"{scheme}://127.0.0.1:{port}", port, process, log)


@contextmanager
def serving(log: Path, *arguments: str, env: dict[str, str] | None = None, warm: bool = True) -> Iterator[Stack]:
    """Serve for the length of the block, and prove that the stop is clean."""
    with starting(log, *arguments, env=env, warm=warm) as stack:
        stack.wait_ready()
        yield stack


@contextmanager
def starting(log: Path, *arguments: str, env: dict[str, str] | None = None, warm: bool = True) -> Iterator[Stack]:
    """The same, for a block that waits until it is ready by itself."""
    stack = start(log, *arguments, env=env, warm=warm)
    try:
        yield stack
        assert stack.stop() == 0, stack.log_text()[-3000:]
    finally:
        kill(stack)


def kill(stack: Stack) -> None:
    """Leave nothing behind, whatever happened."""
    stack.http.close()
    family = stack.family()
    for process in family:
        if process.is_running():
            process.kill()
    stack.process.wait(STOP_TIMEOUT_S)
    if stack.process.stdout is not None:
        stack.process.stdout.close()


def assert_gone(processes: list[psutil.Process], timeout_s: float = 60.0) -> None:
    _, alive = psutil.wait_procs(processes, timeout_s)
    left = [" ".join(process.cmdline()[:6]) for process in alive if process.status() != psutil.STATUS_ZOMBIE]
    assert not left, f"left behind: {left}"


def assert_port_free(port: int, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                assert time.monotonic() < deadline, f"port {port} is still taken"
                time.sleep(0.2)
            else:
                return
