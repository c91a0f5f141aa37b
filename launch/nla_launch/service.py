"""From a plan to running processes: ports, keys, the listening socket, the gateway's settings."""

import asyncio
import itertools
import logging
import random
import secrets
import socket
import sys
from pathlib import Path
from typing import Final

from nla_gateway.settings import SETTINGS_VARIABLE, EngineSettings, Settings
from nla_launch.errors import LaunchError
from nla_launch.plan import EnginePlan
from nla_launch.preset import Preset
from nla_launch.process import ChildProcess
from nla_launch.supervisor import Supervisor

BACKLOG: Final = 2048
LOWEST_PORT: Final = 10_000


def listen(host: str, port: int) -> socket.socket:
    """Open the socket that the gateway will listen on, before anything slow starts.

    Raises:
        LaunchError: the port is taken or the host is not ours.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)  # only now does a second server on this port fail
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise LaunchError(f"cannot listen on {host}:{port}: {reason}; choose another --port or --host") from None
    return listener


def serve(
    engines: list[EnginePlan],
    preset: Preset,
    listener: socket.socket,
    *,
    host: str,
    api_key: str | None,
    log_level: str,
) -> None:
    """Run the service until it is told to stop.

    Raises:
        ServiceError: it failed.
    """
    ports = _free_ports(len(engines))
    parts = {plan.role: _start_of(plan, port) for plan, port in zip(engines, ports, strict=True)}
    settings = Settings(
        verbalizer=parts["av"][1] if "av" in parts else None,
        reconstructor=parts["ar"][1] if "ar" in parts else None,
        base_model=preset.base_model,
        predict_mean_mse=preset.predict_mean_mse,
        api_key=api_key,
        log_level=log_level,
    )
    gateway = ChildProcess(
        "gateway",
        [sys.executable, "-P", "-m", "nla_gateway", "--fd", str(listener.fileno())],
        {SETTINGS_VARIABLE: settings.model_dump_json(), "CUDA_VISIBLE_DEVICES": ""},
        hands_over=(listener,),
        level=logging.INFO,
    )
    url, own_url = (f"http://{_for_url(name)}:{listener.getsockname()[1]}" for name in (host, _reachable(host)))
    supervisor = Supervisor(
        [child for child, _ in parts.values()], gateway, url=url, ready_url=f"{own_url}/ready", grace_s=settings.grace_s
    )
    asyncio.run(supervisor.run())


def _start_of(plan: EnginePlan, port: int) -> tuple[ChildProcess, EngineSettings]:
    key = secrets.token_hex(32)  # no leading dash, which would look like a flag
    if plan.checkpoint.folder is None:
        raise LaunchError(f"{plan.checkpoint.source} has no local folder")
    settings = EngineSettings(
        url=f"http://127.0.0.1:{port}",
        api_key=key,
        checkpoint=plan.checkpoint.folder,
        model=plan.checkpoint.name,
        dtype=plan.dtype,
        context_length=plan.context_length,
        max_in_flight=plan.max_in_flight,
        shared_in_flight=plan.shared_in_flight,
    )
    return ChildProcess(plan.label, plan.command(port, key), plan.environment()), settings


def _free_ports(count: int) -> list[int]:
    """Find free ports below those that the kernel gives out: an engine takes its own only minutes later."""
    ephemeral = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    shuffled = random.sample(range(LOWEST_PORT, max(ephemeral, LOWEST_PORT + 1000)), 1000)
    free = list(itertools.islice(filter(_is_free, shuffled), count))
    if len(free) < count:
        raise LaunchError("no free ports for the engines on 127.0.0.1: is something else taking them all?")
    return free


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _reachable(host: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound


def _for_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
