"""The command `nla-serve`, also as `python -m nla_launch`. Knows signals before there is anything to stop, and what
to say where only the client is installed.
"""

import os
import signal
import sys
from types import FrameType

from nla_launch.signals import stopping


def main() -> int:
    """Run the command and return its exit code."""
    # Until the supervisor takes over there is nothing to stop, and a download would not let itself be interrupted.
    for number in stopping():
        signal.signal(number, _leave)
    try:
        from nla_launch import cli

        return cli.main()
    except ModuleNotFoundError as error:
        message = f"{error.name} is not installed: pip install 'nla-serve[server]' brings what a server needs"
        if sys.platform != "linux":
            message = "the server runs on Linux alone; here are the clients, and nla info and nla try"
        sys.stderr.write(f"nla-serve: {message}\n")
        return 2


def _leave(number: int, frame: FrameType | None) -> None:
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
