"""What an NLA pair is asked, and what it answers: vectors to texts, texts to vectors, scores of the two."""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from nla_client.showing import display
from nla_client.wire.base import Base64Vector, OneOrMany, PairRequest, Response, VectorDType

FinishReason = Literal["stop", "length"]
Pairs = Literal["each", "all"]
PartKind = Literal["paragraph", "line", "sentence", "word", "quote"]


class SamplingRequest(PairRequest):
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


class ReconstructRequest(PairRequest):
    """`POST /reconstruct`: texts in, vectors out."""

    texts: OneOrMany[str]
    dtype: VectorDType = Field(default="bfloat16", description="Of the answer's vectors.")


class CriticRequest(PairRequest):
    """`POST /critic`: texts and vectors in, scores out."""

    texts: OneOrMany[str]
    vectors: OneOrMany[Base64Vector]
    dtype: VectorDType = "bfloat16"
    pairs: Pairs = Field(default="each", description="`all`: every text against every vector, each rebuilt once.")


class AblateRequest(PairRequest):
    """`POST /ablate`: pairs of text and vector in, what each part of the text is worth out."""

    texts: OneOrMany[str]
    vectors: OneOrMany[Base64Vector]
    dtype: VectorDType = "bfloat16"
    by: PartKind = Field(default="sentence", description="What the texts are taken apart into.")


class Usage(Response):
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


class Score(Response):
    """How near the rebuilt vector came.

    With both vectors scaled to the sidecar's mse_scale: mse = 2(1 - cosine), in [0, 4];
    fve = 1 - mse / baseline.
    """

    mse: float
    cosine: float
    fve: float | None = Field(description="null where the preset gives no predict_mean_mse baseline.")

    def _repr_html_(self) -> str:
        return display.table([self.model_dump()])


class Sample(Response):
    """One sampled text."""

    text: str = Field(description="What stands between the <explanation> tags, stripped.")
    complete: bool = Field(description="False where the closing tag never came; text is then what there was.")
    finish_reason: FinishReason
    score: Score | None


class VerbalizeResult(Response):
    """All samples of one vector."""

    index: int
    samples: list[Sample]


class VerbalizeResponse(Response):
    """Answer of `/verbalize`, results in the order of the vectors."""

    model: str
    results: list[VerbalizeResult]
    usage: Usage


class ReconstructResponse(Response):
    """Answer of `/reconstruct`, vectors in the order of the texts."""

    model: str
    dtype: VectorDType
    d_model: int
    vectors: list[Base64Vector]
    usage: Usage


class CriticResult(Score):
    """Score of one pair."""

    index: int


class CriticResponse(Response):
    """Answer of `/critic`, results in the order of the pairs."""

    model: str
    results: list[CriticResult]
    usage: Usage


class CriticMatrix(Response):
    """Answer of `/critic` with pairs="all": texts by vectors, [n_texts][n_vectors] each."""

    model: str
    mse: list[list[float]]
    cosine: list[list[float]]
    fve: list[list[float]] | None = Field(description="null where the preset gives no predict_mean_mse baseline.")
    usage: Usage


class AblatedPart(Response):
    """One part of a text, with what the text is worth without it, and up to its end."""

    text: str
    start: int = Field(description="Characters of the text before it.")
    end: int
    without: Score = Field(description="Of the text with this part left out.")
    upto: Score = Field(description="Of the text up to and with this part.")


class AblateResult(Response):
    """What each part of one text is worth."""

    index: int
    score: Score = Field(description="Of the whole text.")
    empty: Score = Field(description="Of an empty text.")
    parts: list[AblatedPart]


class AblateResponse(Response):
    """Answer of `/ablate`, results in the order of the pairs."""

    model: str
    results: list[AblateResult]
    usage: Usage
