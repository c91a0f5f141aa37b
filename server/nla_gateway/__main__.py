"""`python -m nla_gateway --fd N ...`: serves the app on listening sockets that the launcher opened."""

import argparse
import logging
import os
import socket
import sys
from typing import Final

import uvicorn

from nla_gateway.app import create_app
from nla_gateway.settings import SETTINGS_VARIABLE, Settings

KEEPALIVE_S: Final = 75
"""Longer than clients keep idle connections (ours 30 s, urllib3 until they break): they, not we, should close them."""


def main() -> int:
    """Read the settings from the environment and serve until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m nla_gateway", description=__doc__)
    parser.add_argument("--fd", type=int, required=True, nargs="+", help="file descriptors of listening sockets")
    arguments = parser.parse_args()
    settings = Settings.model_validate_json(os.environ[SETTINGS_VARIABLE])
    logging.basicConfig(
        level=settings.log_level.upper(),
        stream=sys.stderr,
        format="%(levelname)s %(message)s",
    )
    config = uvicorn.Config(
        create_app(settings),
        log_config=None,
        access_log=False,
        # What uvicorn says of starting and stopping, the launcher says in the words of the whole.
        log_level="debug" if settings.log_level == "debug" else "warning",
        server_header=False,
        timeout_keep_alive=KEEPALIVE_S,
        timeout_graceful_shutdown=int(settings.grace_s),
    )
    # As sockets and not as uvicorn's `fd`, of which a copy would stay open and take connections until the exit.
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=number) for number in arguments.fd])
    return 0


if __name__ == "__main__":
    sys.exit(main())
