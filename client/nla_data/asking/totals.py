"""What a run counts. It knows nothing else, so that the command starts without pyarrow."""

from pydantic import BaseModel


class Totals(BaseModel):
    """Counts over all rows so far.

    Attributes:
        rows: Rows done, good and bad.
        more: By how many the rows of the output are more, where one of the input gives several.
        failed: Rows kept with a reason instead of a result.
        incomplete: Texts whose closing tag never came.
        scored: Rows with a score; `mse` is the sum over them.
        explained: Rows with an fve; `fve` is the sum over them.
        sent: Seeds taken in order, one for each good row of the output.
        seconds: Time that the runs took.
    """

    rows: int = 0
    more: int = 0
    failed: int = 0
    incomplete: int = 0
    scored: int = 0
    mse: float = 0.0
    explained: int = 0
    fve: float = 0.0
    sent: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0

    def plus(self, other: "Totals") -> "Totals":
        """The sum of both."""
        mine, theirs = self.model_dump(), other.model_dump()
        return Totals(**{name: mine[name] + theirs[name] for name in mine})

    __add__ = plus

    @property
    def written(self) -> int:
        """Rows of the output."""
        return self.rows + self.more

    @property
    def mean_mse(self) -> float | None:
        """Mean over the rows that have one."""
        return self.mse / self.scored if self.scored else None

    @property
    def mean_fve(self) -> float | None:
        """Mean over the rows that have one."""
        return self.fve / self.explained if self.explained else None
