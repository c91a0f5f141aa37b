"""`python -m nla_gateway --settings N --fd N ...`: serves the app on listening sockets that the launcher opened."""

import argparse
import asyncio
import logging
import resource
import socket
import sys
from typing import Final

import uvicorn
from fastapi import FastAPI

from nla_gateway.accepting import Acceptor, Shares
from nla_gateway.api.app import create_app
from nla_gateway.api.protocol import protocol
from nla_gateway.settings import Settings, read_settings
from nla_gateway.telemetry.logs import JsonFormatter, StderrHandler

KEEPALIVE_S: Final = 75
"""Longer than clients keep idle connections (ours 30 s, urllib3 until they break): they, not we, should close them."""

OPEN_FILES: Final = 65_536
"""Connections of callers and to engines, at most; the usual limit of 1,024 is soon reached by a few hundred callers."""


class Server(uvicorn.Server):
    """uvicorn's, which tells the gateway when it is to stop, and leaves connections to other gateways that have fewer.

    Args:
        config: uvicorn's.
        app: what is served.
        shares: who has how many connections of the first socket; None where it is this gateway's alone.
    """

    def __init__(self, config: uvicorn.Config, app: FastAPI, shares: Shares | None = None) -> None:
        super().__init__(config)
        self._app, self._shares = app, shares
        self._acceptor: Acceptor | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to take connections."""
        listeners = list(sockets or [])
        shared = listeners.pop(0) if self._shares is not None else None
        await super().startup(listeners)
        if shared is not None and self._shares is not None:
            self._acceptor = Acceptor(shared, self._shares, self._connections, self._protocol, self.config.ssl)
            self._acceptor.start()

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second, tell the other gateways of connections that have ended."""
        if self._acceptor is not None:
            self._acceptor.tell()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more requests, and wait for those in flight."""
        self._app.state.gateway.leave()
        if self._acceptor is not None:
            await self._acceptor.stop()
        await super().shutdown(sockets)

    def _connections(self) -> int:
        return len(self.server_state.connections)

    def _protocol(self) -> asyncio.Protocol:
        """Form that of a connection, as uvicorn does."""
        return self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )


def main() -> int:
    """Read the settings and serve until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m nla_gateway", description=__doc__)
    parser.add_argument("--fd", type=int, required=True, nargs="+", help="file descriptors of listening sockets")
    parser.add_argument("--settings", type=int, required=True, help="file descriptor of the settings, in JSON")
    parser.add_argument("--shares", type=int, nargs=2, metavar=("FD", "N"),
                        help="memory that tells how many connections each gateway has of the first socket, and whose "
                        "number this one is, from 0 (default: the socket is its own)")  # fmt: skip
    parser.add_argument(
        "--ledger",
        type=int,
        metavar="FD",
        help="memory in which all gateways keep what callers spent (default: there is one gateway)",
    )
    arguments = parser.parse_args()
    settings = read_settings(arguments.settings)
    # As JSON for the launcher, which has the say in what a user sees.
    logging.basicConfig(level=settings.log_level.upper(), handlers=[StderrHandler(JsonFormatter("gateway"))])
    allow_open_files(OPEN_FILES)
    # As sockets and not as uvicorn's `fd`, of which a copy would stay open and take connections until the exit.
    sockets = [socket.socket(fileno=number) for number in arguments.fd]
    for listener in sockets:
        give_up_on_the_silent(listener, settings.limits.stall_timeout_s)
    app = create_app(settings, arguments.ledger)
    shares = None if arguments.shares is None else Shares(*arguments.shares)
    Server(config_of(app, settings), app, shares).run(sockets=sockets)
    return 0


def config_of(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """Form uvicorn's configuration."""
    return uvicorn.Config(
        app,
        http=protocol(settings.limits.stall_timeout_s),
        ws="none",
        log_config=None,
        access_log=False,
        # What uvicorn says of starting and stopping, the launcher says in the words of the whole.
        log_level="debug" if settings.log_level == "debug" else "warning",
        server_header=False,
        timeout_keep_alive=KEEPALIVE_S,
        ssl_certfile=settings.tls.certificate if settings.tls else None,
        ssl_keyfile=settings.tls.key if settings.tls else None,
        timeout_graceful_shutdown=int(settings.limits.grace_s),
    )


def give_up_on_the_silent(listener: socket.socket, seconds: float) -> None:
    """Have the kernel break connections, of those that come in, whose far end takes nothing for that long.

    A caller that no longer reads, or is gone without a word, looks the same to us as one who is slow; the kernel sees
    whether it takes any bytes, or at least answers when it is asked whether it is there.
    """
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(seconds * 1000))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, max(1, int(seconds / 2)))
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, max(1, int(seconds / 4)))


def allow_open_files(wanted: int) -> None:
    """Raise this process's limit of open files to what is wanted, as far as the system lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))


if __name__ == "__main__":
    sys.exit(main())
