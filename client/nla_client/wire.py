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


def _form(value: object) -> str:
    return "many" if isinstance(value, list) else "one"


T = TypeVar("T")
Base64Vector = Annotated[
    str, Field(description="Standard padded base64 of the raw little-endian elements, d_model of them.")
]
OneOrMany = Annotated[
    Annotated[T, Tag("one")] | Annotated[list[T], Field(min_length=1, fail_fast=True), Tag("many")],
    Discriminator(_form),
]
"""One value or a list of them; the tags keep errors to the form that was meant, and the first ends it."""


class VerbalizeRequest(_Request):
    """`POST /verbalize`: vectors in, sampled texts out."""

    vectors: OneOrMany[Base64Vector]
    dtype: VectorDType = "bfloat16"
    n: int = Field(default=1, ge=1, description="Samples per vector.")
    temperature: float = Field(default=1.0, ge=0, le=100, description="0 means greedy.")
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=1, lt=2**30, description="null means the whole vocabulary.")
    max_tokens: int = Field(default=200, ge=1, description="Most tokens a sample may have.")
    seed: int | None = Field(default=None, ge=0, lt=2**31, description="Same seed, same request: same samples.")
    score: bool = Field(default=False, description="Score every text against its vector.")
    stream: bool = Field(default=False, description="Answer as server-sent events.")


class ReconstructRequest(_Request):
    """`POST /reconstruct`: texts in, vectors out."""

    texts: OneOrMany[str]
    dtype: VectorDType = Field(default="bfloat16", description="Of the answer's vectors.")


class CriticRequest(_Request):
    """`POST /critic`: pairs of text and vector in, scores out."""

    texts: OneOrMany[str]
    vectors: OneOrMany[Base64Vector]
    dtype: VectorDType = "bfloat16"


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


StreamEvent = SampleDelta | SampleDone | SampleError | StreamDone

EVENT_NAMES: Final[dict[type[StreamEvent], str]] = {
    SampleDelta: "sample.delta",
    SampleDone: "sample.done",
    SampleError: "error",
    StreamDone: "done",
}
"""Names of the server-sent events of `/verbalize` with stream=true."""


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


class Limits(_Response):
    """What a request may ask for at most, and for how long; where there are several gateways, of each."""

    max_body_bytes: int
    max_held_bytes: int = Field(description="Of all bodies that are being worked on.")
    max_batch: int = Field(description="Vectors or texts a request.")
    max_n: int
    max_samples: int = Field(description="Vectors times n, a request.")
    max_tokens: int
    max_text_tokens: int
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
    if not np.isfinite(vector).all():
        raise ValueError("the vector has NaN or infinite elements")
    with np.errstate(over="ignore"):
        if dtype == "bfloat16":
            rounded = vector.astype(ml_dtypes.bfloat16)
            raw = rounded.view(np.uint16).astype("<u2").tobytes()
        else:
            rounded = vector.astype("<f4")
            raw = rounded.tobytes()
    if not np.isfinite(rounded).all():
        raise ValueError(f"the vector has elements too large for {dtype}")
    return pybase64.b64encode_as_string(raw)


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
