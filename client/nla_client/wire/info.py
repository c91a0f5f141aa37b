"""What a server says of itself."""

from typing import Literal

from pydantic import Field

from nla_client.wire.base import Response


class PairInfo(Response):
    """One served model."""

    model: str
    revision: str | None = Field(default=None, description="Commit of its repository on the hub; null elsewhere.")
    role: Literal["av", "ar"]
    checkpoint_dtype: str
    injection_scale: float | None = None
    mse_scale: float | None = None
    fingerprint: str | None = Field(
        default=None,
        description="Of the checkpoint: other weights of the same name have another. Null while an engine that is not"
        " ready yet is the only one to know.",
    )


class SourceInfo(Response):
    """The model whose activations are explained."""

    model: str
    revision: str | None = Field(default=None, description="As of the pair's models.")
    layer: int = Field(description="It is run up to this block.")
    context: int = Field(description="Tokens of a text, at most.")
    checkpoint_dtype: str
    fingerprint: str | None = None
    warning: str | None = Field(default=None, description="What the self-test found strange.")


class Limits(Response):
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


class EngineInfo(Response):
    """How much fits into one engine at the same time, in each of its replicas, and what was planned."""

    engine: str = Field(description="As at `/ready`.")
    pool_tokens: int | None = Field(description="In its KV pool; null until its self-test has passed.")
    planned_pool_tokens: int | None = Field(description="null for an engine that another machine planned.")
    running_requests: int | None = Field(description="Computed at the same time; null until then, too.")
    planned_running_requests: int | None
    warning: str | None = Field(description="What is lower than planned, what follows, and how to mend it.")


class Info(Response):
    """Answer of `GET /v1/info`."""

    name: str | None = Field(
        default=None, description="The pair's, as `model` in requests has it; null: of an older server."
    )
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


class ModelInfo(Response):
    """One pair, in the form in which OpenAI's servers describe a model, and with what tells pairs apart."""

    id: str = Field(description="Its name: what `model` is in requests.")
    object: Literal["model"] = "model"
    created: int = Field(description="When this server started, in seconds since 1970.")
    owned_by: str = "nla-serve"
    ready: bool = Field(description="Whether all that is served of it takes requests.")
    serves: list[str] = Field(description="Roles: of `av`, `ar` and `source` those that are there.")
    base_model: str | None
    layer: int | None
    d_model: int


class ModelList(Response):
    """Answer of `GET /v1/models`: all pairs, the first being that of requests which name none."""

    object: Literal["list"] = "list"
    data: list[ModelInfo]
