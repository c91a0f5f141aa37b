"""Which words of a text carry it, and every text against every vector. It knows nothing of HTTP."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nla_client.results import tables
from nla_client.results.base import NO_USAGE, OfTexts
from nla_client.showing import shaded
from nla_client.wire import AblatedPart, Score, Usage

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, slots=True, repr=False)
class Ablation:
    """What each part of a text is worth. In Jupyter the text, shaded by what each part carries.

    Attributes:
        text: The whole.
        score: Of the whole.
        empty: Of an empty text.
        parts: In order; each has its place, and the scores `without` it and `upto` its end.
    """

    text: str
    score: Score
    empty: Score
    parts: tuple[AblatedPart, ...]

    @property
    def carried(self) -> tuple[float, ...]:
        """What each part carries: how much better the text is with it, in fve, or in mse where there is no fve."""
        return tuple(_worth(self.score) - _worth(part.without) for part in self.parts)

    def rows(self) -> list[dict[str, Any]]:
        """A row for each part, with the scores of the text without it."""
        own = [{"text": part.text, "start": part.start, "end": part.end} for part in self.parts]
        parts = zip(own, self.carried, self.parts, strict=True)
        return [row | {"carried": carried} | part.without.model_dump() for row, carried, part in parts]

    def __repr__(self) -> str:
        return f"Ablation(text={self.text!r}, score={self.score!r}, parts=<{len(self.parts)}>)"

    def _repr_html_(self) -> str:
        most = max((abs(carried) for carried in self.carried), default=0.0) or 1.0
        patches = [
            shaded.Patch(part.start, part.end, carried / most, _told(part, carried))
            for part, carried in zip(self.parts, self.carried, strict=True)
        ]
        name = _name(self.score)
        whole, empty = (f"{getattr(score, name):.3f}" for score in (self.score, self.empty))
        legend = f"{name} {whole}, of an empty text {empty}; the deeper, the more it carries"
        return shaded.text(self.text, patches, legend)


def _name(score: Score) -> str:
    return "mse" if score.fve is None else "fve"


def _worth(score: Score) -> float:
    return -score.mse if score.fve is None else score.fve


def _told(part: AblatedPart, carried: float) -> str:
    name = _name(part.without)
    without, upto = getattr(part.without, name), getattr(part.upto, name)
    return f"carries {carried:+.3f}\n{name} without it {without:.3f}, of the text up to here {upto:.3f}"


class Ablations(OfTexts[Ablation]):
    """What the parts of a batch of texts are worth; a list of Ablation."""

    _columns = tables.ABLATIONS

    def schema(self) -> "pa.Schema":
        """Types of these columns; needs pyarrow."""
        return tables.ablations()


@dataclass(frozen=True, slots=True, eq=False)
class ScoreMatrix:
    """Scores of every text against every vector, float64 [texts, vectors] each.

    Attributes:
        mse: 2(1 - cosine), in [0, 4].
        cosine: Of the rebuilt vector and the true one.
        fve: 1 - mse / baseline; None where the server has no baseline.
        model: The reconstructor's name; empty where there was nothing to score.
        usage: Token counts over all requests.
    """

    mse: NDArray[np.float64]
    cosine: NDArray[np.float64]
    fve: NDArray[np.float64] | None
    model: str = ""
    usage: Usage = NO_USAGE
