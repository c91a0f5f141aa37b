"""Typed client of an NLA server: vectors to texts, texts to vectors, scores of the two, and texts to explanations.

    from nla_client import NLAClient, NLACritic

    nla = NLAClient("http://host:8000")
    print(nla.verbalize(vec))                       # [d] -> Verbalization, whose str() is the text
    print(NLACritic("http://host:8000").score("a text", vec).cosine)
    print(nla.explain("The river froze in"))        # what the source model holds at the last token

`nla_client.directions` makes vectors to try: directions, and what lies along them.

Every error is an `NLAError`; `nla_client.errors` draws the tree.
"""

from nla_client import directions as directions
from nla_client.asynchronous.client import AsyncNLAClient, AsyncNLACritic
from nla_client.asynchronous.stream import AsyncEventStream, AsyncExplanationStream
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
from nla_client.results.ablated import Ablation, Ablations, ScoreMatrix
from nla_client.results.explained import Explanation, Explanations, Extraction, Extractions, Tokenization
from nla_client.results.verbalized import Scores, Spread, Verbalization, Verbalizations
from nla_client.synchronous.client import NLAClient, NLACritic
from nla_client.synchronous.stream import EventStream, ExplanationStream
from nla_client.wire import (
    AblatedPart,
    ExplainedToken,
    ExplainEvent,
    Info,
    ModelInfo,
    PositionDelta,
    PositionDone,
    PositionError,
    ReadToken,
    Sample,
    SampleDelta,
    SampleDone,
    SampleError,
    Score,
    SourceInfo,
    StreamDone,
    StreamEvent,
    TextTokens,
    Token,
)

__all__ = [
    "APIConnectionError",
    "APIStatusError",
    "APITimeoutError",
    "AblatedPart",
    "Ablation",
    "Ablations",
    "AsyncEventStream",
    "AsyncExplanationStream",
    "AsyncNLAClient",
    "AsyncNLACritic",
    "AuthenticationError",
    "ClientStateError",
    "EngineUnavailableError",
    "EventStream",
    "ExplainEvent",
    "ExplainedToken",
    "Explanation",
    "ExplanationStream",
    "Explanations",
    "Extraction",
    "Extractions",
    "Info",
    "InternalServerError",
    "InvalidArgumentError",
    "InvalidRequestError",
    "InvalidResponseError",
    "InvalidVectorError",
    "MethodNotAllowedError",
    "ModelInfo",
    "NLAClient",
    "NLACritic",
    "NLAError",
    "NotFoundError",
    "OverloadedError",
    "PayloadTooLargeError",
    "PositionDelta",
    "PositionDone",
    "PositionError",
    "ReadToken",
    "Sample",
    "SampleDelta",
    "SampleDone",
    "SampleError",
    "Score",
    "ScoreMatrix",
    "Scores",
    "ServerTimeoutError",
    "SourceInfo",
    "Spread",
    "StreamDone",
    "StreamEvent",
    "TextTokens",
    "Token",
    "Tokenization",
    "Verbalization",
    "Verbalizations",
    "check_layer",
]
