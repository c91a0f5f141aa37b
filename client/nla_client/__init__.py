"""Typed client of an NLA server: vectors to texts, texts to vectors, and scores of the two.

    from nla_client import NLAClient, NLACritic

    nla = NLAClient("http://host:8000")
    print(nla.verbalize(vec))                       # [d] -> Verbalization, whose str() is the text
    print(NLACritic("http://host:8000").score("a text", vec).cosine)

Every error is an `NLAError`; `nla_client.errors` draws the tree.
"""

from nla_client.async_client import AsyncNLAClient, AsyncNLACritic
from nla_client.async_stream import AsyncEventStream
from nla_client.client import NLAClient, NLACritic
from nla_client.errors import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    AuthenticationError,
    ClientStateError,
    EngineUnavailableError,
    InternalServerError,
    InvalidArgumentError,
    InvalidRequestError,
    InvalidResponseError,
    InvalidVectorError,
    MethodNotAllowedError,
    NLAError,
    NotFoundError,
    OverloadedError,
    PayloadTooLargeError,
    ServerTimeoutError,
)
from nla_client.layers import check_layer
from nla_client.results import Scores, Spread, Verbalization, Verbalizations
from nla_client.stream import EventStream
from nla_client.wire import Info, Sample, SampleDelta, SampleDone, SampleError, Score, StreamDone, StreamEvent

__all__ = [
    "APIConnectionError",
    "APIStatusError",
    "APITimeoutError",
    "AsyncEventStream",
    "AsyncNLAClient",
    "AsyncNLACritic",
    "AuthenticationError",
    "ClientStateError",
    "EngineUnavailableError",
    "EventStream",
    "Info",
    "InternalServerError",
    "InvalidArgumentError",
    "InvalidRequestError",
    "InvalidResponseError",
    "InvalidVectorError",
    "MethodNotAllowedError",
    "NLAClient",
    "NLACritic",
    "NLAError",
    "NotFoundError",
    "OverloadedError",
    "PayloadTooLargeError",
    "Sample",
    "SampleDelta",
    "SampleDone",
    "SampleError",
    "Score",
    "Scores",
    "ServerTimeoutError",
    "Spread",
    "StreamDone",
    "StreamEvent",
    "Verbalization",
    "Verbalizations",
    "check_layer",
]
