"""What the calls on pairs return. It knows nothing of HTTP.

`Sample` and `Score` are the contract's own models, frozen; a `Verbalization` is all samples of one vector.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

from nla_client.results import tables
from nla_client.results.base import Results
from nla_client.showing import display
from nla_client.wire import FinishReason, Sample, Score

if TYPE_CHECKING:
    import pyarrow as pa


class Spread(NamedTuple):
    """How far the scores of one vector's samples lie apart, as mse; `std` is the population's."""

    lowest: float
    mean: float
    highest: float
    std: float


@dataclass(frozen=True, slots=True, repr=False)
class Verbalization:
    """The texts sampled for one vector, at least one; `text` and the like are those of the chosen one.

    Attributes:
        samples: All of them, in the order of the server.
        chosen: Which is meant; the first, and with `best=True` the one whose mse is lowest.
    """

    samples: tuple[Sample, ...]
    chosen: int = 0

    @property
    def text(self) -> str:
        """What stands between the <explanation> tags, stripped."""
        return self.samples[self.chosen].text

    @property
    def complete(self) -> bool:
        """False where the closing tag never came; `text` is then what there was."""
        return self.samples[self.chosen].complete

    @property
    def finish_reason(self) -> FinishReason:
        """`stop`, or `length` where `max_tokens` ended the sample."""
        return self.samples[self.chosen].finish_reason

    @property
    def score(self) -> Score | None:
        """How near the text's reconstruction comes to the vector; None unless asked for with `score` or `best`."""
        return self.samples[self.chosen].score

    @property
    def spread(self) -> Spread | None:
        """How far the samples' scores lie apart; None unless all were scored."""
        mses = [sample.score.mse for sample in self.samples if sample.score]
        if len(mses) < len(self.samples):
            return None
        return Spread(min(mses), float(np.mean(mses)), max(mses), float(np.std(mses)))

    def with_best(self) -> Self:
        """Choose the sample whose mse is lowest; of equal ones, and where none was scored, the first."""
        mses = [sample.score.mse if sample.score else np.inf for sample in self.samples]
        return replace(self, chosen=int(np.argmin(mses)))

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        fields = {name: getattr(self, name) for name in ("text", "complete", "finish_reason", "score")}
        shown = ", ".join(f"{name}={value!r}" for name, value in fields.items())
        more = f", samples=<{len(self.samples)}>" if len(self.samples) > 1 else ""
        return f"Verbalization({shown}{more})"

    def _repr_html_(self) -> str:
        return display.table([_sample_row(sample) for sample in self.samples], strong=self.chosen)

    def row(self) -> dict[str, Any]:
        """As a row of a table: the chosen sample, and all of them in `samples`; columns as in the files of `nla`."""
        chosen = _sample_row(self.samples[self.chosen])
        samples = [_sample_row(sample) for sample in self.samples]
        return {"explanation": chosen.pop("text"), **chosen, "samples": samples}


def _sample_row(sample: Sample) -> dict[str, Any]:
    fields = sample.model_dump(exclude={"score"})
    return fields | (sample.score.model_dump() if sample.score else dict.fromkeys(Score.model_fields))


class Verbalizations(Results[Verbalization]):
    """What was sampled for a batch of vectors; a list of Verbalization."""

    _columns = tables.VERBALIZATIONS

    def rows(self) -> list[dict[str, Any]]:
        """Columns explanation, complete, finish_reason, mse, cosine, fve and samples, as in the files of `nla`."""
        return [told.row() for told in self]

    def schema(self) -> "pa.Schema":
        """Types of these columns; needs pyarrow."""
        return tables.verbalizations()

    def with_best(self) -> Self:
        """Choose of each vector's samples the one whose mse is lowest."""
        return type(self)((told.with_best() for told in self), self.model, self.usage)


class Scores(Results[Score]):
    """Scores of a batch of texts; a list of Score."""

    _columns = tables.SCORES

    def rows(self) -> list[dict[str, Any]]:
        """Columns mse, cosine and fve."""
        return [score.model_dump() for score in self]

    def schema(self) -> "pa.Schema":
        """Types of these columns; needs pyarrow."""
        return tables.scores()
