"""The endpoints by which a server tells of itself, as pure values: what to send and how to read the answer. No I/O."""

from nla_client.calls import replies
from nla_client.calls.base import Call
from nla_client.wire import Info


def info() -> Call[Info]:
    """`GET /v1/info`."""
    return Call("GET", "/v1/info", None, lambda reply: replies.model(Info, reply))


def ready() -> Call[bool]:
    """`GET /ready`."""
    return Call("GET", "/ready", None, lambda _reply: True, retry=False)
