"""The gateway's own process, before an engine that never comes up: all that happens before engines is real."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
import psutil

from nla_gateway.limits import GatewayLimits
from nla_gateway.roles import Role
from nla_gateway.settings import Access, EngineSettings, PairSettings, Settings, Tls, write_settings
from nla_launch.run.service import listen
from tests.descriptions import described
from tests.plain import TOY
from tests.warm import popen

NOBODY = EngineSettings(
    urls=("http://127.0.0.1:9",),
    api_key="unused",
    checkpoint=TOY / "reconstructor",
    model="toy-reconstructor",
    dtype="float32",
    context_length=1024,
    max_in_flight=8,
    shared_in_flight=1,
    description=described(Role.AR, TOY / "reconstructor"),
)

OPEN = Access()


@dataclass
class Running:
    """A running gateway."""

    url: str
    port: int
    process: psutil.Process

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=120)

    def connections(self) -> int:
        """How many of its connections with callers are open."""
        ours = [c for c in self.process.net_connections("tcp") if c.laddr.port == self.port]
        return sum(c.status != psutil.CONN_LISTEN for c in ours)


def start(settings: Settings, listener: socket.socket, **environment: str) -> subprocess.Popen[str]:
    """Start a gateway's process on a socket."""
    with write_settings(settings) as told:
        descriptors = {"--settings": told.fileno(), "--fd": listener.fileno()}
        flags = [word for flag, descriptor in descriptors.items() for word in (flag, str(descriptor))]
        command = [sys.executable, "-P", "-m", "nla_gateway", *flags]
        return popen(command, {**os.environ, **environment}, pass_fds=list(descriptors.values()))


@contextmanager
def gateway(
    limits: GatewayLimits,
    tls: Tls | None = None,
    access: Access = OPEN,
    pairs: tuple[PairSettings, ...] = (PairSettings(name="nobody", engines={Role.AR: NOBODY}),),
) -> Iterator[Running]:
    settings = Settings(pairs=pairs, limits=limits, tls=tls, access=access)
    listener = listen("127.0.0.1", 0)
    port = listener.getsockname()[1]
    process = start(settings, listener)
    listener.close()
    scheme = "http" if tls is None else "https"
    try:
        running = Running(f"{scheme}://127.0.0.1:{port}", port, psutil.Process(process.pid))
        wait_until_up(running)
        yield running
    finally:
        process.kill()
        process.wait()


def wait_until_ready(running: Running) -> None:
    """Wait until it has proved its engines."""
    deadline = time.monotonic() + 120
    while not httpx.get(f"{running.url}/ready", trust_env=False, timeout=60).is_success:
        assert time.monotonic() < deadline, "the gateway does not become ready"
        time.sleep(0.2)


def wait_until_up(running: Running) -> None:
    deadline = time.monotonic() + 120
    while True:
        try:
            httpx.get(f"{running.url}/health", trust_env=False, verify=False, timeout=120).raise_for_status()  # noqa: S501
        except httpx.TransportError:
            assert time.monotonic() < deadline, "the gateway does not come up"
            time.sleep(0.2)
        else:
            return
