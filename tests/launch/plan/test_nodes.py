"""What the flags for several machines say."""

import pytest

from nla_gateway.roles import Role
from nla_launch.errors import LaunchError
from nla_launch.plan.nodes import PORTS_EACH, read_nodes


def test_one_machine_needs_nothing() -> None:
    assert read_nodes(1, None, None) is None
    assert read_nodes(1, 0, None) is None


def test_each_engine_has_ports_of_its_own() -> None:
    from sglang.srt.server_args import DP_ATTENTION_HANDSHAKE_PORT_DELTA

    nodes = read_nodes(2, 1, "[::1]:5000")
    assert nodes is not None
    assert [nodes.address(role) for role in Role] == ["[::1]:5000", "[::1]:5020", "[::1]:5040"]
    assert PORTS_EACH > DP_ATTENTION_HANDSHAKE_PORT_DELTA


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((2, None, "h:1"), "needs --node-rank 0 to 1"),
        ((2, 2, "h:1"), "needs --node-rank 0 to 1"),
        ((2, -1, "h:1"), "needs --node-rank 0 to 1"),
        ((2, 0, None), "needs --dist-init-addr HOST:PORT"),
        ((2, 0, "h"), "must be HOST:PORT"),
        ((2, 0, "h:x"), "must be HOST:PORT"),
        ((2, 0, "h:0"), "must be HOST:PORT"),
        ((2, 0, "h:65530"), "with a port up to 65475"),
        ((1, None, "h:1"), "give --nnodes"),
        ((1, 1, None), "give --nnodes"),
    ],
)
def test_refused(given: tuple[int, int | None, str | None], message: str) -> None:
    with pytest.raises(LaunchError, match=message):
        read_nodes(*given)
