"""What an output folder says of itself: which rows, which settings, which models made it. Runs never mix."""

import uuid
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Self

from pydantic import BaseModel, ConfigDict, Field

from nla_client import Info
from nla_data.asking.totals import Totals
from nla_data.errors import UsageError
from nla_data.reading.files import File
from nla_data.reading.source import Position

VERSION: Final = 1
_PRINT: Final = "fingerprint"
_OF_SOURCE: Final = ("model", "layer", "checkpoint_dtype", _PRINT)
"""What the vectors depend on; how long a text it takes is not among them."""


class InputFile(BaseModel):
    """An input file as it was at the start."""

    model_config = ConfigDict(frozen=True)

    path: str
    size: int
    modified_ns: int

    @classmethod
    def of(cls, file: File) -> Self:
        """Describe a file."""
        return cls(path=file.path, size=file.size, modified_ns=file.modified_ns)


class Served(BaseModel):
    """The models at the other end, as far as results depend on them; `source` only where they depend on it."""

    model_config = ConfigDict(frozen=True)

    verbalizer: dict[str, Any] | None
    reconstructor: dict[str, Any] | None
    source: dict[str, Any] | None = None
    base_model: str | None
    layer: int | None
    d_model: int
    predict_mean_mse: float | None

    @classmethod
    def of(cls, info: Info, *, source: bool = False) -> Self:
        """Take it from `GET /v1/info`; `source` says whether its source model counts."""
        told = info.model_dump(include=set(cls.model_fields))
        named = {name: value for name, value in (told["source"] or {}).items() if name in _OF_SOURCE}
        return cls.model_validate(told | {"source": named if source and named else None})

    def difference(self, now: "Served") -> str | None:
        """What is not the same any more, if anything is: by name, before, and now."""
        for name, before in self:
            after = getattr(now, name)
            if not (isinstance(before, dict) and isinstance(after, dict)):
                if before != after:
                    return f"{name} {_brief(before)}, now {_brief(after)}"
                continue
            if _without_print(before) != _without_print(after):
                return f"{name} {_brief(before)}, now {_brief(after)}"
            first, second = before.get(_PRINT), after.get(_PRINT)
            if first and second and first != second:  # an older server or output has none
                return f"{name} {_brief(before)}, now other weights of the same name ({first[:8]}, {second[:8]})"
        return None


class Manifest(BaseModel):
    """What is done with which rows by which models.

    Attributes:
        given: How the inputs were named, so that they are found again: absolute paths, and URIs without their keys.
    """

    version: int = VERSION
    run: str = Field(default_factory=lambda: uuid.uuid4().hex)
    task: str
    settings: dict[str, Any]
    inputs: list[InputFile]
    given: list[str] = []
    served: Served
    started: str = Field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    finished: bool = False
    totals: Totals = Totals()

    def check_goes_on(self, new: "Manifest", out: str, left_open: Collection[str] = ()) -> None:
        """Refuse to go on with other rows, settings or models than those that the output was begun with.

        Args:
            new: What is asked for now.
            out: The output.
            left_open: Settings that nobody asked for.

        Raises:
            UsageError: naming the first difference.
        """
        difference = self._difference(new, left_open)
        if difference:
            raise UsageError(f"{out} was begun with {difference}: take that again, or another output")

    def _difference(self, new: "Manifest", left_open: Collection[str]) -> str | None:
        if (self.version, self.task) != (new.version, new.task):
            return f"nla {self.task} (format {self.version}), now nla {new.task} (format {new.version})"
        for name in self.settings | new.settings:
            before, now = self.settings.get(name), new.settings.get(name)
            if before != now and name not in left_open:
                return f"{name} {before}, now {now}"
        if self.inputs != new.inputs:
            return _changed_input(self.inputs, new.inputs)
        return self.served.difference(new.served)


class PartState(BaseModel):
    """What a part says of where it ends."""

    run: str
    end: Position = Position()
    totals: Totals = Totals()


def _changed_input(before: Sequence[InputFile], now: Sequence[InputFile]) -> str:
    for old, new in zip(before, now, strict=False):
        if old.path != new.path:
            return f"the input {old.path}, now {new.path}"
        if old != new:
            return f"another {old.path}: it has changed since"
    return f"{len(before)} input files, now {len(now)}"


def _without_print(pair: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in pair.items() if name != _PRINT}


def _brief(value: Any) -> Any:
    return value.get("model") if isinstance(value, dict) else value
