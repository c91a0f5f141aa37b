"""A hook on torch's rendezvous, in the scheduler: the store where its processes meet listens on loopback alone.

torch itself listens on every address, and whoever can connect may read and write there.
"""

import socket
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final

LOOPBACK: Final = "127.0.0.1"


def meet_on_loopback(  # noqa: PLR0917 - torch's own arguments
    original: Callable[..., Any],
    hostname: str,
    port: int,
    rank: int,
    world_size: int,
    timeout: timedelta,
    use_libuv: bool = True,
) -> Any:
    """Open the store as torch's function does; arguments are its own. The others, of higher rank, only connect.

    Where an engine spans several machines they meet at the first one's address, as torch does it.
    """
    if rank != 0 or hostname != LOOPBACK:
        return original(hostname, port, rank, world_size, timeout, use_libuv)
    from torch.distributed import TCPStore  # type: ignore[attr-defined]  # torch's public name for it

    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((LOOPBACK, port))
    listener.listen()
    return TCPStore(
        LOOPBACK, port, world_size, True, timeout,
        multi_tenant=True, use_libuv=use_libuv, master_listen_fd=listener.detach(),
    )  # fmt: skip
