"""What is asked about texts for the source model, and answered: tokens, vectors at them, and words for these."""

from typing import Annotated, Literal

from pydantic import Field

from nla_client.wire.base import Base64Vector, OneOrList, OneOrMany, PairRequest, Request, Response, VectorDType
from nla_client.wire.pairs import Sample, SamplingRequest, Score, Usage

PositionWord = Literal["last", "all", "content"]
ChoiceOfPositions = PositionWord | list[int]
"""Of one text."""


class ChatMessage(Request):
    """One message of a chat."""

    role: str
    content: str


class TextRequest(PairRequest):
    """Texts for the source model, in exactly one of three forms."""

    texts: OneOrMany[str] | None = None
    chats: list[OneOrList[ChatMessage]] | None = Field(
        default=None, fail_fast=True, description="A chat, which is a list of messages, or a list of several."
    )
    token_ids: list[OneOrList[int]] | None = Field(
        default=None, fail_fast=True, description="Of one text, or of several."
    )
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

    positions: PositionWord | Annotated[list[PositionWord | int | list[int]], Field(fail_fast=True)] = Field(
        default="last",
        description="Negative from the end; the same for every text, or a list of such, one a text.",
    )


class ExtractRequest(PositionsRequest):
    """`POST /extract`: texts in, activation vectors at positions out."""

    dtype: VectorDType = Field(default="bfloat16", description="Of the answer's vectors.")


class ExplainRequest(PositionsRequest, SamplingRequest):
    """`POST /explain`: texts in, what the source model holds at positions, in words, out."""


class Token(Response):
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


class TokenizedText(Response):
    """One text in tokens."""

    index: int
    text: str = Field(description="As rendered.")
    tokens: list[Token]


class TokenizeResponse(Response):
    """Answer of `/tokenize`, results in the order of the texts."""

    model: str
    results: list[TokenizedText]


class ExtractedToken(ReadToken):
    """A token with its activation vector."""

    vector: Base64Vector


class ExtractResult(Response):
    """The chosen tokens of one text, each once, in its order."""

    index: int
    text: str
    tokens: list[ExtractedToken]


class ExtractResponse(Response):
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


class ExplainResult(Response):
    """The chosen tokens of one text, each once, in its order."""

    index: int
    text: str
    tokens: list[ExplainedToken]


class ExplainResponse(Response):
    """Answer of `/explain`, results in the order of the texts."""

    model: str
    source: str
    layer: int
    results: list[ExplainResult]
    usage: Usage
