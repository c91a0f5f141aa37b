"""From a plan to running processes: ports, keys, the listening socket, the gateway's settings."""

import asyncio
import itertools
import logging
import os
import random
import secrets
import socket
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Final

from nla_gateway.limits import GatewayLimits
from nla_gateway.settings import COUNTERS_VARIABLE, SETTINGS_VARIABLE, Access, EngineSettings, Settings, Tls
from nla_launch.errors import LaunchError
from nla_launch.plan import EnginePlan
from nla_launch.preflight import check_checkpoints
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
    access: Access,
    limits: GatewayLimits,
    tls: Tls | None,
    log_level: str,
    workers: int,
    hung_after_s: float,
) -> None:
    """Run the service until it is told to stop.

    Args:
        engines: what to start.
        preset: what is known of the pair.
        listener: where users connect; the gateways share it, and it is closed at the stop.
        host: its address, as the user gave it.
        access: who may call.
        limits: what they may ask for.
        tls: for https.
        log_level: of the gateways.
        workers: gateway processes.
        hung_after_s: how long an engine may make no progress.

    Raises:
        ServiceError: it failed.
    """
    # Each engine makes a folder of its own for its counts, but not where it inherits one.
    os.environ.pop(COUNTERS_VARIABLE, None)
    ports = _free_ports(len(engines))
    parts = {plan.role: _start_of(plan, port) for plan, port in zip(engines, ports, strict=True)}
    settings = Settings(
        verbalizer=parts["av"][1] if "av" in parts else None,
        reconstructor=parts["ar"][1] if "ar" in parts else None,
        base_model=preset.base_model,
        predict_mean_mse=preset.predict_mean_mse,
        access=access,
        limits=limits,
        tls=tls,
        log_level=log_level,
        hung_after_s=hung_after_s,
    )
    url = f"{_scheme(settings)}://{_for_url(host)}:{listener.getsockname()[1]}"
    with tempfile.TemporaryDirectory(prefix="nla-serve-") as counters:
        private = [listen("127.0.0.1", 0) for _ in range(workers)]
        supervisor = Supervisor(
            [child for child, _ in parts.values()],
            _gateways(settings.share_of(workers), listener, private, counters),
            listeners=[listener, *private],
            url=url,
            grace_s=settings.limits.grace_s,
        )
        asyncio.run(supervisor.run())


def _gateways(
    settings: Settings, listener: socket.socket, private: list[socket.socket], counters: str
) -> dict[str, ChildProcess]:
    """Form the gateways, one a private socket, by the URL at which each alone says whether it is ready."""
    environment = {
        SETTINGS_VARIABLE: settings.model_dump_json(),
        COUNTERS_VARIABLE: counters,
        "CUDA_VISIBLE_DEVICES": "",
    }
    return {
        f"{_scheme(settings)}://127.0.0.1:{own.getsockname()[1]}/ready": ChildProcess(
            "gateway" if len(private) == 1 else f"gateway {number}",
            [sys.executable, "-P", "-m", "nla_gateway", "--fd", str(listener.fileno()), str(own.fileno())],
            environment,
            shares=(listener, own),
            level=logging.INFO,
        )
        for number, own in enumerate(private, 1)
    }


def _start_of(plan: EnginePlan, port: int) -> tuple[ChildProcess, EngineSettings]:
    key = secrets.token_hex(32)  # no leading dash, which would look like a flag
    if plan.checkpoint.folder is None:
        raise LaunchError(f"{plan.checkpoint.source} has no local folder")
    settings = EngineSettings(
        urls=(f"http://127.0.0.1:{port}",),
        api_key=key,
        checkpoint=plan.checkpoint.folder,
        model=plan.checkpoint.name,
        dtype=plan.dtype,
        trust_remote_code=plan.trust_remote_code,
        context_length=plan.context_length,
        max_in_flight=plan.max_in_flight,
        shared_in_flight=plan.shared_in_flight,
    )
    folders = {role: plan.checkpoint.folder if role == plan.role else None for role in ("av", "ar")}
    check = partial(check_checkpoints, **folders, trust_remote_code=plan.trust_remote_code)
    child = ChildProcess(plan.label, plan.command(port, key), plan.environment(), check=check, hides=key)
    return child, settings


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


def _scheme(settings: Settings) -> str:
    return "http" if settings.tls is None else "https"


def _for_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
