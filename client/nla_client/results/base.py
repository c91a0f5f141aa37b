"""What the results of all batches share: a list that knows what it cost, as a table and as HTML."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol, Self, TypeVar

from nla_client.showing import display
from nla_client.wire import Usage, add_usage

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


class OfOneText(Protocol):
    """What was found in one text."""

    def rows(self) -> list[dict[str, Any]]:
        """A row for each token or part."""


T = TypeVar("T")
X = TypeVar("X", bound=OfOneText)
NO_USAGE: Final = Usage(prompt_tokens=0, cached_tokens=0, completion_tokens=0)


class Results(list[T]):
    """Results in the order of what was asked for, and what they cost.

    Attributes:
        model: The name of the model that answered; empty for a batch of none.
        usage: Token counts over the whole batch.
    """

    _columns: ClassVar[dict[str, type]]

    def __init__(self, items: Iterable[T] = (), model: str = "", usage: Usage = NO_USAGE) -> None:
        super().__init__(items)
        self.model = model
        self.usage = usage

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        """Put the results of several requests together."""
        usage = add_usage([part.usage for part in parts])
        return cls((item for part in parts for item in part), parts[0].model if parts else "", usage)

    def rows(self) -> list[dict[str, Any]]:
        """Each result as a row of a table."""
        raise NotImplementedError

    def schema(self) -> "pa.Schema":
        """Types of the rows' columns, which values that are missing do not change; needs pyarrow."""
        raise NotImplementedError

    def to_pandas(self) -> "pd.DataFrame":
        """As a pandas DataFrame, a row for each result; needs pandas."""
        import pandas as pd

        return pd.DataFrame(self.rows(), columns=list(self._columns)).astype(self._columns)

    def to_arrow(self) -> "pa.Table":
        """As a pyarrow Table, a row for each result; needs pyarrow."""
        import pyarrow as pa

        return pa.Table.from_pylist(self.rows(), self.schema())

    def _repr_html_(self) -> str:
        return display.table(self.rows())


class OfTexts(Results[X]):
    """Results that are of one text each."""

    def rows(self) -> list[dict[str, Any]]:
        """The rows of all texts; `index` is the text's."""
        return [{"index": index} | row for index, one in enumerate(self) for row in one.rows()]
