"""From a plan to running processes: ports, keys, the listening socket, the gateway's settings."""

import asyncio
import logging
import secrets
import socket
import sys

from nla_gateway.settings import SETTINGS_VARIABLE, EngineSettings, Settings
from nla_launch.errors import LaunchError
from nla_launch.plan import EnginePlan
from nla_launch.preset import Preset
from nla_launch.process import ChildProcess
from nla_launch.supervisor import Supervisor


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
    except OSError as error:
        raise LaunchError(f"cannot listen on {host}:{port}: {error.strerror or error}; choose another --port") from None
    listener.set_inheritable(True)
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
    parts = {plan.role: _start_of(plan) for plan in engines}
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
        pass_fds=(listener.fileno(),),
        level=logging.INFO,
    )
    url, own_url = (f"http://{_for_url(name)}:{listener.getsockname()[1]}" for name in (host, _reachable(host)))
    supervisor = Supervisor(
        [child for child, _ in parts.values()], gateway, url=url, ready_url=f"{own_url}/ready", grace_s=settings.grace_s
    )
    with listener:
        asyncio.run(supervisor.run())


def _start_of(plan: EnginePlan) -> tuple[ChildProcess, EngineSettings]:
    port, key = _free_port(), secrets.token_hex(32)  # no leading dash, which would look like a flag
    if plan.checkpoint.folder is None:
        raise LaunchError(f"{plan.checkpoint.source} has no local folder")
    settings = EngineSettings(
        url=f"http://127.0.0.1:{port}",
        api_key=key,
        checkpoint=plan.checkpoint.folder,
        model=plan.checkpoint.name,
        dtype=plan.dtype,
        context_length=plan.context_length,
    )
    return ChildProcess(plan.label, plan.command(port, key), plan.environment()), settings


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _reachable(host: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound


def _for_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
