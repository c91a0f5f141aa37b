"""What the gateway is told at its start, as one frozen model. It reads no flags and no files of its own."""

import os
from pathlib import Path
from typing import IO, Final, Self

from pydantic import BaseModel, ConfigDict, Field

from nla_client.wire import VectorDType
from nla_gateway.description import Description
from nla_gateway.errors import CheckpointError
from nla_gateway.limits import GatewayLimits
from nla_gateway.roles import Role

COUNTERS_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"
"""Names the folder where several gateways keep their counts together; prometheus_client looks for it."""


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Expected(_Frozen):
    """What transformers makes of one prompt, of an architecture that was never run: the self-test compares."""

    ids: tuple[int, ...]
    vector: tuple[float, ...] = Field(description="What is rebuilt; of a verbalizer, what is injected, scaled.")
    logprobs: tuple[dict[int, float], ...] = Field(
        default=(), description="Of a verbalizer: those of the likeliest tokens, behind each of the last places."
    )


class EngineSettings(_Frozen):
    """One engine, or several alike, and the checkpoint that they serve."""

    urls: tuple[str, ...] = Field(min_length=1)
    api_key: str
    checkpoint: Path = Field(description="Local folder with config.json, and all that has no other.")
    tokenizer: Path | None = Field(default=None, description="Folder of the tokenizer, where it is another.")
    description: Description | None = Field(
        default=None, description="How it is to be used; null where the checkpoint is not there, in a dry run."
    )
    model: str = Field(description="The name that answers carry.")
    label: str | None = Field(default=None, description="What messages call it; null: by its role.")
    revision: str | None = Field(default=None, description="The commit of the hub's repository that it is of.")
    fingerprint: str | None = Field(
        default=None, description="What tells it from others of its name; null: the engines alone can."
    )
    dtype: VectorDType = Field(description="What the engine computes in.")
    trust_remote_code: bool = Field(default=False, description="Whether the checkpoint's own Python code may run.")
    replicas: int = Field(default=1, gt=0, description="SGLang's own, in each engine.")
    context_length: int = Field(description="Prompt and answer together, in tokens.")
    pool_tokens: int | None = Field(default=None, description="Planned for each replica's KV pool; None: not by us.")
    running_requests: int | None = Field(default=None, description="Planned for each replica, at the same time.")
    max_in_flight: int = Field(gt=0, description="Requests sent to each at the same time; others wait in the gateway.")
    shared_in_flight: int = Field(gt=0, description="Of them, those of large requests while small ones come in.")
    expected: Expected | None = Field(default=None, description="What a stricter self-test is to find.")

    def described(self) -> Description:
        """Return the checkpoint's description.

        Raises:
            CheckpointError: there is none.
        """
        if self.description is None:
            raise CheckpointError(f"{self.checkpoint}: nobody said how it is to be used")
        return self.description


class Share(_Frozen):
    """What the caller with one key gets of the engines."""

    weight: float = Field(default=1.0, ge=0.01, le=100, description="Turns at the engines, beside those of others.")
    max_in_flight: int | None = Field(
        default=None, gt=0, description="Samples, or calls of some texts, at each kind of a pair's engines; more wait."
    )
    requests_per_minute: int | None = Field(default=None, gt=0, description="Those for work.")
    tokens_per_minute: int | None = Field(default=None, gt=0, description="Read and written; cached ones are free.")


class Access(_Frozen):
    """Who may call, and what they find beside the API."""

    api_keys: dict[str, str] = Field(default={}, description="By callers' names; without any, all may call.")
    shares: dict[str, Share] = Field(default={}, description="By callers' names, of those who have one of their own.")
    gateways: int = Field(default=1, gt=0, description="How many gateways callers' places are shared out over.")
    allow_origins: tuple[str, ...] = Field(default=(), description="Origins whose web pages may call; `*` for all.")
    docs: bool = Field(default=True, description="Whether there are /docs and /openapi.json.")
    page: bool = Field(default=True, description="Whether there is the page at /.")


class Tls(_Frozen):
    """Files in PEM for https."""

    certificate: Path = Field(description="With those between it and a root, if any.")
    key: Path


class PairSettings(_Frozen):
    """One pair, or what is served of it."""

    name: str = Field(description="As `model` in requests has it.")
    engines: dict[Role, EngineSettings] = Field(description="Of each role that is served.")
    base_model: str | None = None
    predict_mean_mse: float | None = Field(default=None, gt=0, description="Baseline of fve.")


class Settings(_Frozen):
    """Everything the gateway needs."""

    pairs: tuple[PairSettings, ...]
    started: int = Field(default=0, description="When nla-serve was, in seconds since 1970.")
    access: Access = Access()
    tls: Tls | None = Field(default=None, description="Without it, plain http.")
    limits: GatewayLimits = GatewayLimits()
    log_level: str = "info"
    hung_after_s: float = Field(default=120.0, ge=5, description="How long an engine may make no progress.")

    def share_of(self, workers: int) -> Self:
        """Form the settings of one of several gateways on the same engines: each has its part of their places."""

        def part(engine: EngineSettings) -> EngineSettings:
            places = max(2, -(-engine.max_in_flight // workers))  # one for large requests, one for small ones
            shared = min(places - 1, -(-engine.shared_in_flight // workers))
            return engine.model_copy(update={"max_in_flight": places, "shared_in_flight": shared})

        access = self.access.model_copy(update={"gateways": workers})
        pairs = tuple(
            pair.model_copy(update={"engines": {role: part(engine) for role, engine in pair.engines.items()}})
            for pair in self.pairs
        )
        return self.model_copy(update={"pairs": pairs, "access": access})


def write_settings(settings: Settings) -> IO[bytes]:
    """Write settings to a file without a name, for a child process that inherits it.

    Unlike flags, no other user of the machine can read it; unlike the environment, it takes any number of keys.
    """
    file = os.fdopen(os.memfd_create("nla-gateway-settings"), "wb", buffering=0)
    file.write(settings.model_dump_json().encode())
    return file


def read_settings(descriptor: int) -> Settings:
    """Read them there; several processes may, at the same time."""
    return Settings.model_validate_json(os.pread(descriptor, os.fstat(descriptor).st_size, 0))
