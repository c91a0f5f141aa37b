"""What a request may ask for at most, and for how long. Imports little: the command line makes its flags from it."""

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class GatewayLimits(BaseModel):
    """Upper bounds, of each gateway; those on tokens shrink further to what the engines' context lengths leave."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    max_body_bytes: int = Field(default=64 * 2**20, gt=0, description="bytes of one request's body")
    max_held_bytes: int = Field(default=256 * 2**20, gt=0, description="bytes of all bodies that are being worked on")
    max_batch: int = Field(default=512, gt=0, description="vectors or texts a request")
    max_n: int = Field(default=64, gt=0, description="samples a vector")
    max_samples: int = Field(default=2048, gt=0, description="vectors times n, a request")
    max_tokens: int = Field(default=1024, gt=0, description="tokens a sample")
    max_text_tokens: int = Field(default=1024, gt=0, description="tokens of a text to reconstruct")
    max_positions: int = Field(default=8192, gt=0, description="tokens at which the source model is read, a request")
    max_queue: int = Field(default=4096, gt=0, description="samples and texts accepted and not yet answered")
    request_timeout_s: float = Field(default=300.0, gt=0, le=86_400, description="seconds that a request may take")
    stall_timeout_s: float = Field(
        default=30.0, ge=1, le=3600, description="seconds that a client may neither send nor read what is due"
    )
    grace_s: float = Field(
        default=30.0, ge=0, le=3600, description="seconds that requests in flight may take to finish at a stop"
    )

    @model_validator(mode="after")
    def _one_body_can_be_held(self) -> Self:
        if self.max_held_bytes < self.max_body_bytes:
            raise ValueError(
                f"no body of --max-body-bytes {self.max_body_bytes} fits into --max-held-bytes {self.max_held_bytes}"
            )
        return self
