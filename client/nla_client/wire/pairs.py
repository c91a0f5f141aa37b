"""The contract on the wire: request and response models, the vector codec, the closed list of error types.

Both sides import this module: the clients to speak, the gateway to listen. It knows JSON and numpy and
nothing else: no HTTP library, no model, no settings. Limits that a server sets are checked by the server.
"""

import binascii
from collections.abc import Sequence
from typing import Annotated, Final, Literal, TypeVar

import ml_dtypes
import numpy as np
import pybase64
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from nla_client import display

VectorDType = Literal["bfloat16", "float32"]
FinishReason = Literal["stop", "length"]
Pairs = Literal["each", "all"]
PartKind = Literal["paragraph", "line", "sentence", "word", "quote"]
PositionWord = Literal["last", "all", "content"]
ErrorType = Literal[
    "invalid_request",
    "authentication",
    "not_found",
    "method_not_allowed",
    "payload_too_large",
    "overloaded",
    "internal",
    "engine_unavailable",
    "timeout",
]

STATUS: Final[dict[ErrorType, int]] = {
    "invalid_request": 400,
    "authentication": 401,
    "not_found": 404,
    "method_not_allowed": 405,
    "payload_too_large": 413,
    "overloaded": 429,
    "internal": 500,
    "engine_unavailable": 503,
    "timeout": 504,
}
"""The one table from an error's type to its HTTP status."""

ITEM_SIZE: Final[dict[VectorDType, int]] = {"bfloat16": 2, "float32": 4}
"""Bytes per vector element on the wire."""

REQUEST_ID_HEADER: Final = "x-request-id"


class _Request(BaseModel):
    """Strict: an unknown field or a number sent as text is an error, never a guess."""

    model_config = ConfigDict(extra="forbid", strict=True)


class _Response(BaseModel):
    """Lenient towards fields that a newer server adds; frozen, since clients hand these to their users."""

    model_config = ConfigDict(extra="ignore", frozen=True)


ONE_TAG: Final = "one"
MANY_TAG: Final = "many"


def _form(value: object) -> str:
    return MANY_TAG if isinstance(value, list) else ONE_TAG


T = TypeVar("T")
Base64Vector = Annotated[
    str, Field(description="Standard padded base64 of the raw little-endian elements, d_model of them.")
]
OneOrMany = Annotated[
    Annotated[T, Tag(ONE_TAG)] | Annotated[list[T], Field(min_length=1, fail_fast=True), Tag(MANY_TAG)],
    Discriminator(_form),
]
"""One value or a list of them; the tags keep errors to the form that was meant, and the first ends it."""
OneOrList = Annotated[
    Annotated[T, Tag(ONE_TAG)] | Annotated[list[T], Field(fail_fast=True), Tag(MANY_TAG)], Discriminator(_form)
]
"""The same as an element of a list, which may also be of one kind alone."""


class SamplingRequest(_Request):
    """How texts are sampled, in all calls that do."""

    n: int = Field(default=1, ge=1, description="Samples per vector.")
    temperature: float = Field(default=1.0, ge=0, le=100, description="0 means greedy.")
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=1, lt=2**30, description="null means the whole vocabulary.")
    max_tokens: int = Field(default=200, ge=1, description="Most tokens a sample may have.")
    seed: int | None = Field(default=None, ge=0, lt=2**31, description="Same seed, same request: same samples.")
    score: bool = Field(default=False, description="Score every text against its vector.")
    stream: bool = Field(default=False, description="Answer as server-sent events.")


class VerbalizeRequest(SamplingRequest):
    """`POST /verbalize`: vectors in, sampled texts out."""

    vectors: OneOrMany[Base64Vector]
    dtype: VectorDType = "bfloat16"


class ReconstructRequest(_Request):
    """`POST /reconstruct`: texts in, vectors out."""

    texts: OneOrMany[str]
    dtype: VectorDType = Field(default="bfloat16", description="Of the answer's vectors.")


class CriticRequest(_Request):
    """`POST /critic`: texts and vectors in, scores out."""

    texts: OneOrMany[str]
    vectors: OneOrMany[Base64Vector]
    dtype: VectorDType = "bfloat16"
    pairs: Pairs = Field(default="each", description="`all`: every text against every vector, each rebuilt once.")


class AblateRequest(_Request):
    """`POST /ablate`: pairs of text and vector in, what each part of the text is worth out."""

    texts: OneOrMany[str]
    vectors: OneOrMany[Base64Vector]
    dtype: VectorDType = "bfloat16"
    by: PartKind = Field(default="sentence", description="What the texts are taken apart into.")


class ChatMessage(_Request):
    """One message of a chat."""

    role: str
    content: str


ChoiceOfPositions = PositionWord | list[int]
"""Of one text."""


class TextRequest(_Request):
    """Texts for the source model, in exactly one of three forms."""

    texts: OneOrMany[str] | None = None
    chats: list[OneOrList[ChatMessage]] | None = Field(
        default=None, description="A chat, which is a list of messages, or a list of several."
    )
    token_ids: list[OneOrList[int]] | None = Field(default=None, description="Of one text, or of several.")
    add_special_tokens: bool = Field(default=True, description="With texts: a BOS, where it does not begin so already.")
    add_generation_prompt: bool = Field(default=True, description="With chats.")
    continue_final_message: bool = Field(default=False, description="With chats: the last message stays open.")
    chat_template_kwargs: dict[str, bool | int | float | str | None] | None = Field(
        default=None, description='With chats: such as `{"enable_thinking": false}`.'
    )


class TokenizeRequest(TextRequest):
    """`POST /tokenize`: texts in, the source model's tokens out."""


class PositionsRequest(TextRequest):
    """Texts, and which of their tokens are meant."""

    positions: PositionWord | list[PositionWord | int | list[int]] = Field(
        default="last",
        description="Negative from the end; the same for every text, or a list of such, one a text.",
    )


class ExtractRequest(PositionsRequest):
    """`POST /extract`: texts in, activation vectors at positions out."""

    dtype: VectorDType = Field(default="bfloat16", description="Of the answer's vectors.")


class ExplainRequest(PositionsRequest, SamplingRequest):
    """`POST /explain`: texts in, what the source model holds at positions, in words, out."""


class Usage(_Response):
    """Token counts over the whole request; cached are those prompt tokens that needed no computing."""

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int


def add_usage(parts: Sequence[Usage]) -> Usage:
    """Sum token counts."""
    return Usage(
        prompt_tokens=sum(part.prompt_tokens for part in parts),
        cached_tokens=sum(part.cached_tokens for part in parts),
        completion_tokens=sum(part.completion_tokens for part in parts),
    )


class Score(_Response):
    """How near the rebuilt vector came.

    With both vectors scaled to the sidecar's mse_scale: mse = 2(1 - cosine), in [0, 4];
    fve = 1 - mse / baseline.
    """

    mse: float
    cosine: float
    fve: float | None = Field(description="null where the preset gives no predict_mean_mse baseline.")

    def _repr_html_(self) -> str:
        return display.table([self.model_dump()])


class Sample(_Response):
    """One sampled text."""

    text: str = Field(description="What stands between the <explanation> tags, stripped.")
    complete: bool = Field(description="False where the closing tag never came; text is then what there was.")
    finish_reason: FinishReason
    score: Score | None


class VerbalizeResult(_Response):
    """All samples of one vector."""

    index: int
    samples: list[Sample]


class VerbalizeResponse(_Response):
    """Answer of `/verbalize`, results in the order of the vectors."""

    model: str
    results: list[VerbalizeResult]
    usage: Usage


class ReconstructResponse(_Response):
    """Answer of `/reconstruct`, vectors in the order of the texts."""

    model: str
    dtype: VectorDType
    d_model: int
    vectors: list[Base64Vector]
    usage: Usage


class CriticResult(Score):
    """Score of one pair."""

    index: int


class CriticResponse(_Response):
    """Answer of `/critic`, results in the order of the pairs."""

    model: str
    results: list[CriticResult]
    usage: Usage


class CriticMatrix(_Response):
    """Answer of `/critic` with pairs="all": texts by vectors, [n_texts][n_vectors] each."""

    model: str
    mse: list[list[float]]
    cosine: list[list[float]]
    fve: list[list[float]] | None = Field(description="null where the preset gives no predict_mean_mse baseline.")
    usage: Usage


class AblatedPart(_Response):
    """One part of a text, with what the text is worth without it, and up to its end."""

    text: str
    start: int = Field(description="Characters of the text before it.")
    end: int
    without: Score = Field(description="Of the text with this part left out.")
    upto: Score = Field(description="Of the text up to and with this part.")


class AblateResult(_Response):
    """What each part of one text is worth."""

    index: int
    score: Score = Field(description="Of the whole text.")
    empty: Score = Field(description="Of an empty text.")
    parts: list[AblatedPart]


class AblateResponse(_Response):
    """Answer of `/ablate`, results in the order of the pairs."""

    model: str
    results: list[AblateResult]
    usage: Usage


class Token(_Response):
    """One token of a source text."""

    position: int
    id: int
    text: str = Field(description="The characters from start to end; pieces of one character share it.")
    start: int = Field(description="Characters of the rendered text before it.")
    end: int
    special: bool
    message: int | None = Field(description="Index in the chat; null in what belongs to no message.")
    role: str | None
    content: bool = Field(description="False for what the template adds.")


class ReadToken(Token):
    """A token at which the source model was read."""

    norm: float = Field(description="Of the vector, before any scaling.")
    remark: str | None = Field(description="Why this place reads badly; null: nothing is known against it.")


class TokenizedText(_Response):
    """One text in tokens."""

    index: int
    text: str = Field(description="As rendered.")
    tokens: list[Token]


class TokenizeResponse(_Response):
    """Answer of `/tokenize`, results in the order of the texts."""

    model: str
    results: list[TokenizedText]


class ExtractedToken(ReadToken):
    """A token with its activation vector."""

    vector: Base64Vector


class ExtractResult(_Response):
    """The chosen tokens of one text, each once, in its order."""

    index: int
    text: str
    tokens: list[ExtractedToken]


class ExtractResponse(_Response):
    """Answer of `/extract`, results in the order of the texts."""

    model: str
    layer: int
    d_model: int
    dtype: VectorDType
    results: list[ExtractResult]
    usage: Usage


class ExplainedToken(ReadToken):
    """A token with what the verbalizer says of its vector."""

    samples: list[Sample]

    @property
    def explanation(self) -> str:
        """The text of the first sample."""
        return self.samples[0].text

    @property
    def score(self) -> Score | None:
        """The score of the first sample; None unless asked for."""
        return self.samples[0].score


class ExplainResult(_Response):
    """The chosen tokens of one text, each once, in its order."""

    index: int
    text: str
    tokens: list[ExplainedToken]


class ExplainResponse(_Response):
    """Answer of `/explain`, results in the order of the texts."""

    model: str
    source: str
    layer: int
    results: list[ExplainResult]
    usage: Usage


class ErrorDetail(_Response):
    """What went wrong, in which field, in which request."""

    type: ErrorType
    message: str
    param: str | None
    request_id: str


class ErrorResponse(_Response):
    """Body of every reply that is not a success."""

    error: ErrorDetail


class SampleDelta(_Response):
    """Server-sent event `sample.delta`: more text of one sample."""

    index: int
    sample: int
    text: str


class SampleDone(Sample):
    """Server-sent event `sample.done`: one sample, whole."""

    index: int
    sample: int


class SampleError(_Response):
    """Server-sent event `error`: one sample failed; the others go on."""

    index: int
    sample: int
    error: ErrorDetail


class StreamDone(_Response):
    """Server-sent event `done`: the last one."""

    usage: Usage


class TextTokens(_Response):
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


class PairInfo(_Response):
    """One served model."""

    model: str
    role: Literal["av", "ar"]
    checkpoint_dtype: str
    injection_scale: float | None = None
    mse_scale: float | None = None
    fingerprint: str | None = Field(
        default=None, description="Of the checkpoint: other weights of the same name have another."
    )


class SourceInfo(_Response):
    """The model whose activations are explained."""

    model: str
    layer: int = Field(description="It is run up to this block.")
    context: int = Field(description="Tokens of a text, at most.")
    checkpoint_dtype: str
    fingerprint: str | None = None
    warning: str | None = Field(default=None, description="What the self-test found strange.")


class Limits(_Response):
    """What a request may ask for at most, and for how long; where there are several gateways, of each."""

    max_body_bytes: int
    max_held_bytes: int = Field(description="Of all bodies that are being worked on.")
    max_batch: int = Field(description="Vectors or texts a request.")
    max_n: int
    max_samples: int = Field(description="Vectors times n, a request.")
    max_tokens: int
    max_text_tokens: int
    max_positions: int = Field(default=8192, description="Tokens at which the source model is read, a request.")
    max_queue: int = Field(description="Samples and texts accepted and not yet answered.")
    request_timeout_s: float
    stall_timeout_s: float = Field(description="How long a client may neither send nor read what is due.")
    grace_s: float = Field(description="How long requests in flight may take to finish at a stop.")


class EngineInfo(_Response):
    """How much fits into one engine at the same time, in each of its replicas, and what was planned."""

    engine: str = Field(description="As at `/ready`.")
    pool_tokens: int | None = Field(description="In its KV pool; null until its self-test has passed.")
    planned_pool_tokens: int | None = Field(description="null for an engine that another machine planned.")
    running_requests: int | None = Field(description="Computed at the same time; null until then, too.")
    planned_running_requests: int | None
    warning: str | None = Field(description="What is lower than planned, what follows, and how to mend it.")


class Info(_Response):
    """Answer of `GET /v1/info`."""

    verbalizer: PairInfo | None
    reconstructor: PairInfo | None
    source: SourceInfo | None = Field(default=None, description="null where no source model is served.")
    base_model: str | None
    layer: int | None = Field(
        description="Vectors are the output of decoder block `layer`; null where no sidecar of what is served says it."
    )
    d_model: int
    predict_mean_mse: float | None
    limits: Limits
    engines: list[EngineInfo] = Field(default=[], description="All that serve these models.")
    versions: dict[str, str]


def encode_vector(vector: NDArray[np.floating], dtype: VectorDType) -> str:
    """Encode one vector [d] (any float dtype) as base64, rounding to nearest even.

    Raises:
        ValueError: a finite element overflows `dtype`, or an element is NaN or infinite.
    """
    return pybase64.b64encode_as_string(_bytes_of(vector, dtype))


def encode_rows(rows: NDArray[np.floating], dtype: VectorDType) -> list[str]:
    """Encode the vectors of rows [n, d] as `encode_vector` does each.

    Raises:
        ValueError: as `encode_vector`.
    """
    raw, size = _bytes_of(rows, dtype), rows.shape[1] * ITEM_SIZE[dtype]
    return [pybase64.b64encode_as_string(raw[start : start + size]) for start in range(0, len(raw), size)]


def _bytes_of(vectors: NDArray[np.floating], dtype: VectorDType) -> bytes:
    if not np.isfinite(vectors).all():
        raise ValueError("the vector has NaN or infinite elements")
    with np.errstate(over="ignore"):
        if dtype == "bfloat16":
            rounded = vectors.astype(ml_dtypes.bfloat16)
            raw = rounded.view(np.uint16).astype("<u2").tobytes()
        else:
            rounded = vectors.astype("<f4")
            raw = rounded.tobytes()
    if not np.isfinite(rounded).all():
        raise ValueError(f"the vector has elements too large for {dtype}")
    return raw


def decode_vector(data: str, dtype: VectorDType, d_model: int | None = None) -> NDArray[np.float32]:
    """Decode base64 into a float32 vector [d].

    Raises:
        ValueError: not standard padded base64, not `d_model` elements, NaN or infinite elements.
    """
    try:
        raw = pybase64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("not valid base64 (standard alphabet, padded)") from None
    size = ITEM_SIZE[dtype]
    if len(raw) % size or (d_model is not None and len(raw) != d_model * size):
        each = f"{dtype} needs {size} each"
        wanted = f"d_model = {d_model} elements need {d_model * size}" if d_model is not None else each
        raise ValueError(f"{len(raw)} bytes in {dtype} where {wanted}")
    vector: NDArray[np.float32]
    if dtype == "bfloat16":
        vector = np.frombuffer(raw, "<u2").astype(np.uint16).view(ml_dtypes.bfloat16).astype(np.float32)
    else:
        vector = np.frombuffer(raw, "<f4").astype(np.float32)
    if not np.isfinite(vector).all():
        raise ValueError("has NaN or infinite elements")
    return vector
