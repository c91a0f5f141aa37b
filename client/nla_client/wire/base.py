"""What the models of the contract are made of: strict requests, lenient responses, one value or a list of them."""

from typing import Annotated, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

VectorDType = Literal["bfloat16", "float32"]


class Request(BaseModel):
    """Strict: an unknown field or a number sent as text is an error, never a guess."""

    model_config = ConfigDict(extra="forbid", strict=True)


class PairRequest(Request):
    """What a pair is asked for."""

    model: str | None = Field(default=None, description="Name of the pair, as at `/v1/models`; null: the first.")


class Response(BaseModel):
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
