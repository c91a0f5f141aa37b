"""Server-sent events of `/verbalize` and `/explain` with stream=true."""

from typing import Final

from nla_client.wire.base import Response
from nla_client.wire.errors import ErrorDetail
from nla_client.wire.pairs import Sample, Usage
from nla_client.wire.texts import ReadToken, Token


class SampleDelta(Response):
    """Server-sent event `sample.delta`: more text of one sample."""

    index: int
    sample: int
    text: str


class SampleDone(Sample):
    """Server-sent event `sample.done`: one sample, whole."""

    index: int
    sample: int


class SampleError(Response):
    """Server-sent event `error`: one sample failed; the others go on."""

    index: int
    sample: int
    error: ErrorDetail


class StreamDone(Response):
    """Server-sent event `done`: the last one."""

    usage: Usage


class TextTokens(Response):
    """Server-sent event `tokens` of `/explain`, the first of each text: all its tokens, read ones with their norms."""

    index: int
    text: str
    tokens: list[ReadToken | Token]


class PositionDelta(SampleDelta):
    """`sample.delta` of `/explain`; index is the text's."""

    position: int


class PositionDone(SampleDone):
    """`sample.done` of `/explain`."""

    position: int


class PositionError(SampleError):
    """`error` of `/explain`."""

    position: int


StreamEvent = SampleDelta | SampleDone | SampleError | StreamDone
ExplainEvent = TextTokens | PositionDelta | PositionDone | PositionError | StreamDone

EVENT_NAMES: Final[dict[type[StreamEvent | ExplainEvent], str]] = {
    TextTokens: "tokens",
    SampleDelta: "sample.delta",
    PositionDelta: "sample.delta",
    SampleDone: "sample.done",
    PositionDone: "sample.done",
    SampleError: "error",
    PositionError: "error",
    StreamDone: "done",
}
"""Names of the server-sent events of `/verbalize` and `/explain` with stream=true."""
