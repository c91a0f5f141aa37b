"""What the calls return that begin with a text. It knows nothing of HTTP.

Tokens are the contract's own models, frozen.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nla_client.layers import check_layer
from nla_client.results import tables
from nla_client.results.base import OfTexts
from nla_client.results.verbalized import Verbalization
from nla_client.showing import display, shaded
from nla_client.vectors import Matrix
from nla_client.wire import ExplainedToken, Info, ReadToken, Score, Token

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Tokenization:
    """One text in the source model's tokens.

    Attributes:
        text: As rendered.
        tokens: All of them, in order.
        model: The source model's name.
    """

    text: str
    tokens: tuple[Token, ...]
    model: str

    @property
    def ids(self) -> list[int]:
        """The tokens' ids; they may be given in the text's place."""
        return [token.id for token in self.tokens]

    def _repr_html_(self) -> str:
        names = ("position", "id", "text", "role", "special")
        return display.table([{name: getattr(token, name) for name in names} for token in self.tokens])


@dataclass(frozen=True, slots=True, eq=False)
class Extraction:
    """Activations at the chosen tokens of one text. It is its vectors where vectors are asked for, as by `verbalize`.

    Attributes:
        text: As rendered.
        tokens: The chosen ones, each once, in the order of the text.
        vectors: float32 [tokens, d_model]: output of block `layer` at each of them.
        layer: The block.
        model: The source model's name.
    """

    text: str
    tokens: tuple[ReadToken, ...]
    vectors: Matrix
    layer: int
    model: str

    def check_layer(self, info: Info) -> str | None:
        """Tell what looks wrong about the vectors for the pair that a server serves, or None: see `check_layer`."""
        return check_layer(self.vectors, info)

    def rows(self) -> list[dict[str, Any]]:
        """A row for each token, as in the files of `nla`."""
        own = [token_row(token) for token in self.tokens]
        return [row | {"activation_vector": vector} for row, vector in zip(own, self.vectors, strict=True)]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self.vectors, dtype) if copy else np.asarray(self.vectors, dtype)

    def __repr__(self) -> str:
        shape = list(self.vectors.shape)
        return f"Extraction(text={self.text!r}, vectors=<{shape}>, layer={self.layer}, model={self.model!r})"

    def _repr_html_(self) -> str:
        rows = [token_row(token) for token in self.tokens]
        return display.table(rows) + display.note(f"{self.vectors.shape[1]} wide, block {self.layer} of {self.model}")


def token_row(token: ReadToken) -> dict[str, Any]:
    """What a row says of its token, as in the files of `nla`."""
    names = ("position", "norm", "remark")
    return {"token": token.text, "token_id": token.id} | {name: getattr(token, name) for name in names}


class Extractions(OfTexts[Extraction]):
    """What was read of a batch of texts; a list of Extraction."""

    _columns = tables.EXTRACTIONS

    def schema(self) -> "pa.Schema":
        """Types of these columns; needs pyarrow."""
        return tables.extractions()

    def _repr_html_(self) -> str:
        return display.table([{**row, "activation_vector": None} for row in self.rows()])


@dataclass(frozen=True, slots=True, repr=False)
class Explanation:
    """What the chosen tokens of one text hold, in words. In Jupyter the text coloured by fve, explanations on hover.

    Attributes:
        text: As rendered.
        tokens: The chosen ones, each once, in the order of the text; each has `explanation`, `score` and `samples`.
        layer: The block whose output is explained.
        model: The verbalizer's name.
        source: The source model's name.
    """

    text: str
    tokens: tuple[ExplainedToken, ...]
    layer: int
    model: str
    source: str

    def __str__(self) -> str:
        return "\n".join(f"{token.position} {token.text!r}: {token.explanation}" for token in self.tokens)

    def __repr__(self) -> str:
        return f"Explanation(text={self.text!r}, tokens=<{len(self.tokens)}>, layer={self.layer}, model={self.model!r})"

    def rows(self) -> list[dict[str, Any]]:
        """A row for each token: of its first sample, and all of them in `samples`."""
        return [token_row(token) | Verbalization(tuple(token.samples)).row() for token in self.tokens]

    def _repr_html_(self) -> str:
        patches = [
            shaded.Patch(token.start, token.end, _strength(token.score), _told(token), token.remark is not None)
            for token in self.tokens
        ]
        return shaded.text(self.text, patches, "the deeper, the higher fve; grey: no fve; underlined: reads badly")


def _strength(score: Score | None) -> float | None:
    return None if score is None or score.fve is None else min(1.0, max(0.0, score.fve))


def _told(token: ExplainedToken) -> str:
    fve = token.score.fve if token.score else None
    facts = [f"token {token.position}", f"norm {token.norm:.4g}", *([] if fve is None else [f"fve {fve:.3f}"])]
    others = [f"{len(token.samples) - 1} more in .samples"] if len(token.samples) > 1 else []
    return "\n".join([token.explanation, ", ".join(facts + others), *([token.remark] if token.remark else [])])


class Explanations(OfTexts[Explanation]):
    """What was told of a batch of texts; a list of Explanation."""

    _columns = tables.EXPLANATIONS

    def schema(self) -> "pa.Schema":
        """Types of these columns; needs pyarrow."""
        return tables.explanations()
