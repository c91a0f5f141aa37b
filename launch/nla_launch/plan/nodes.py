"""Several machines for one engine: which of them this is, and where the engine's processes find each other."""

import re
from dataclasses import dataclass
from typing import Final

from nla_gateway.roles import Role
from nla_launch.errors import LaunchError

PORTS_EACH: Final = 20
"""Distance between the engines' ports. An engine listens on its --dist-init-addr, and, with attention data
parallelism, on ports up to 13 above it (SGLang's DP_ATTENTION_HANDSHAKE_PORT_DELTA)."""
PORTS: Final = len(Role) * PORTS_EACH
"""Those that all engines together may take on the first machine."""
ADDRESS: Final = re.compile(r"(\[[^\]]+\]|[^:\s]+):(\d+)")


@dataclass(frozen=True)
class Nodes:
    """The machines: how many, which of them this is, and the first one's address."""

    count: int
    rank: int
    host: str
    port: int

    def address(self, role: Role) -> str:
        """SGLang's --dist-init-addr of one engine: each has ports of its own on the first machine."""
        return f"{self.host}:{self.port + list(Role).index(role) * PORTS_EACH}"


def read_nodes(count: int, rank: int | None, address: str | None) -> Nodes | None:
    """Check what the flags say of several machines; None where there is one.

    Raises:
        LaunchError: flags that do not fit together.
    """
    if count == 1:
        if rank or address:
            raise LaunchError("--node-rank and --dist-init-addr are for several machines: give --nnodes")
        return None
    if rank is None or not 0 <= rank < count:
        raise LaunchError(f"--nnodes {count} needs --node-rank 0 to {count - 1}: the number of this machine")
    if address is None:
        raise LaunchError(f"--nnodes {count} needs --dist-init-addr HOST:PORT: machine 0's, the same on all")
    match = ADDRESS.fullmatch(address)
    last = 65535 - PORTS
    if match is None or not 0 < int(match[2]) <= last:
        raise LaunchError(f"--dist-init-addr {address}: must be HOST:PORT, with a port up to {last}")
    return Nodes(count, rank, match[1], int(match[2]))
