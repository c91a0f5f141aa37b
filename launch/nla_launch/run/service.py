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
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Final

from nla_gateway.callers import ledger_entries
from nla_gateway.limits import GatewayLimits
from nla_gateway.settings import COUNTERS_VARIABLE, Access, EngineSettings, PairSettings, Settings, Tls, write_settings
from nla_launch.errors import LaunchError
from nla_launch.pair.fingerprint import fingerprint_of
from nla_launch.pair.preflight import check_checkpoints
from nla_launch.plan.elsewhere import Elsewhere
from nla_launch.plan.plan import EnginePlan
from nla_launch.plan.planning import Planned, engines_of
from nla_launch.run.forking import ForkServer
from nla_launch.run.process import ChildProcess
from nla_launch.run.reference import expected_of
from nla_launch.run.supervisor import Supervisor

BACKLOG: Final = 2048
LOWEST_PORT: Final = 10_000
FINGERPRINT_VARIABLE: Final = "NLA_ENGINE_FINGERPRINT"
"""What an engine tells of its checkpoint when it is asked."""


def listen(host: str, port: int, flag: str = "--port or --host") -> socket.socket:
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
        raise LaunchError(f"cannot listen on {host}:{port}: {reason}; choose another {flag}") from None
    return listener


def serve(
    pairs: Sequence[Planned],
    listener: socket.socket,
    *,
    forks: ForkServer,
    host: str,
    access: Access,
    limits: GatewayLimits,
    tls: Tls | None,
    log_level: str,
    workers: int,
    hung_after_s: float,
    open_page: bool,
) -> None:
    """Run the service until it is told to stop.

    Args:
        pairs: what is served, and where.
        listener: where users connect; the gateways share it, and it is closed at the stop.
        forks: what forks the engines.
        host: its address, as the user gave it.
        access: who may call.
        limits: what they may ask for.
        tls: for https.
        log_level: of the gateways.
        workers: gateway processes.
        hung_after_s: how long an engine may make no progress.
        open_page: in a browser of this machine, once all is ready.

    Raises:
        ServiceError: it failed.
    """
    engines = engines_of(pairs)
    addresses = _addresses(engines, pairs[0].asked.elsewhere)
    settings = Settings(
        pairs=tuple(_pair_of(pair, addresses) for pair in pairs),
        started=int(time.time()),
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
            _children(engines, addresses, forks),
            _gateways(settings.share_of(workers), listener, private, counters),
            listeners=[listener, *private],
            url=url,
            grace_s=settings.limits.grace_s,
            forks=forks,
            key=next(iter(access.api_keys.values()), None),
            open_page=open_page,
        )
        asyncio.run(supervisor.run())


def serve_part(engines: list[EnginePlan], forks: ForkServer) -> None:
    """Run this machine's part of engines that span several, until it is told to stop; machine 0 has the gateways.

    Raises:
        ServiceError: it failed.
    """
    children = _children(engines, _addresses(engines, Elsewhere()), forks)
    asyncio.run(Supervisor(children, {}, listeners=[], url="", grace_s=0, forks=forks).run())


def _gateways(
    settings: Settings, listener: socket.socket, private: list[socket.socket], counters: str
) -> dict[str, ChildProcess]:
    """Form the gateways, one a private socket, by the URL at which each alone says whether it is ready."""
    environment = {COUNTERS_VARIABLE: counters, "CUDA_VISIBLE_DEVICES": ""}
    several, files = len(private) > 1, [write_settings(settings)]
    command = [sys.executable, "-P", "-m", "nla_gateway", "--settings", str(files[0].fileno())]
    if several:
        connections, ledger = _memory(len(private)), _memory(ledger_entries(settings.access))
        files += [connections, ledger]
        command += ["--ledger", str(ledger.fileno())]
    return {
        f"{_scheme(settings)}://127.0.0.1:{own.getsockname()[1]}/ready": ChildProcess(
            f"gateway {number + 1}" if several else "gateway",
            [
                *command, "--fd", str(listener.fileno()), str(own.fileno()),
                *(("--shares", str(connections.fileno()), str(number)) if several else ()),
            ],
            environment,
            shares=(listener, own, *files),
            level=logging.INFO,
        )
        for number, own in enumerate(private)
    }  # fmt: skip


def _memory(numbers: int) -> IO[bytes]:
    """Memory in which gateways tell each other so many numbers, of 8 bytes."""
    file = os.fdopen(os.memfd_create("gateways"), "w+b")
    file.truncate(8 * max(1, numbers))
    return file


Address = tuple[str, int, str]
"""Host, port and API key of an engine."""


def _addresses(engines: list[EnginePlan], elsewhere: Elsewhere) -> dict[str, Address]:
    """Choose where engines listen, by their labels."""
    labels = [engine.label for engine in engines]
    if elsewhere.listen is not None:
        listen(*elsewhere.listen, flag="--engine-listen").close()
        return dict.fromkeys(labels, (*elsewhere.listen, str(elsewhere.key)))
    # Keys are hexadecimal: a leading dash would look like a flag.
    ports = _free_ports(len(labels))
    return {label: ("127.0.0.1", port, secrets.token_hex(32)) for label, port in zip(labels, ports, strict=True)}


def _pair_of(pair: Planned, addresses: Mapping[str, Address]) -> PairSettings:
    ours = {plan.role: _settings_of(plan, *addresses[plan.label]) for plan in pair.engines}
    return PairSettings(
        name=pair.asked.name,
        engines={**pair.others, **ours},
        base_model=pair.asked.preset.base_model,
        predict_mean_mse=pair.asked.preset.predict_mean_mse,
    )


def _settings_of(plan: EnginePlan, host: str, port: int, key: str) -> EngineSettings:
    return EngineSettings(
        urls=(f"http://{_for_url(host)}:{port}",),
        api_key=key,
        checkpoint=_folder(plan),
        description=plan.description,
        tokenizer=plan.checkpoint.tokenizer_folder,
        model=plan.checkpoint.name,
        label=plan.label,
        revision=plan.checkpoint.revision,
        dtype=plan.dtype,
        trust_remote_code=plan.trust_remote_code,
        replicas=plan.dp,
        context_length=plan.context_length,
        pool_tokens=plan.pool_tokens,
        running_requests=plan.running_requests,
        max_in_flight=plan.max_in_flight,
        shared_in_flight=plan.shared_in_flight,
        fingerprint=plan.fingerprint,
        expected=expected_of(plan),
    )


def _children(engines: list[EnginePlan], addresses: Mapping[str, Address], forks: ForkServer) -> list[ChildProcess]:
    # Each engine makes a folder of its own for its counts, but not where it inherits one.
    os.environ.pop(COUNTERS_VARIABLE, None)
    return [_child_of(plan, *addresses[plan.label], forks) for plan in engines]


def _child_of(plan: EnginePlan, host: str, port: int, key: str, forks: ForkServer) -> ChildProcess:
    environment, command = plan.environment(), plan.command(port, key, host)
    if plan.fingerprint is not None:
        environment |= {FINGERPRINT_VARIABLE: plan.fingerprint}
    return ChildProcess(plan.label, command, environment, check=partial(_check_again, plan), hides=key, forks=forks)


def _check_again(plan: EnginePlan) -> None:
    """Check the checkpoint of an engine that is to start once more.

    Raises:
        LaunchError: it cannot be served any more, or is another.
    """
    described = {} if plan.description is None else {plan.role: plan.description}
    check_checkpoints({plan.role: plan.checkpoint}, described, trust_remote_code=plan.trust_remote_code)
    if plan.description is not None and fingerprint_of(plan.checkpoint, plan.description) != plan.fingerprint:
        raise LaunchError(
            f"{plan.checkpoint.model_path}: its files are others than those that were served: start nla-serve again"
        )


def _folder(plan: EnginePlan) -> Path:
    if plan.checkpoint.folder is None:
        raise LaunchError(f"{plan.checkpoint.source} has no local folder")
    return plan.checkpoint.folder


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
