"""The endpoints by which a server tells of itself, as pure values: what to send and how to read the answer. No I/O."""

from nla_client.calls import replies
from nla_client.calls.base import Call
from nla_client.wire import Info, ModelInfo, ModelList


def info() -> Call[Info]:
    """`GET /v1/info`."""
    return Call("GET", "/v1/info", None, lambda reply: replies.model(Info, reply))


def models() -> Call[list[ModelInfo]]:
    """`GET /v1/models`."""
    return Call("GET", "/v1/models", None, lambda reply: replies.model(ModelList, reply).data, of_pair=False)


def ready() -> Call[bool]:
    """`GET /ready`."""
    return Call("GET", "/ready", None, lambda _reply: True, retry=False)
