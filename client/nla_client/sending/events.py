"""Server-sent events of `/verbalize` and `/explain` with stream=true, from bytes to typed events. No I/O."""

from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from nla_client.errors import InvalidResponseError
from nla_client.wire import (
    EVENT_NAMES,
    PositionDelta,
    PositionDone,
    PositionError,
    SampleDelta,
    SampleDone,
    SampleError,
    StreamDone,
    TextTokens,
)

VERBALIZED: Final[Mapping[str, type[BaseModel]]] = {
    EVENT_NAMES[model]: model for model in (SampleDelta, SampleDone, SampleError, StreamDone)
}
"""What each event of `/verbalize` is."""
EXPLAINED: Final[Mapping[str, type[BaseModel]]] = {
    EVENT_NAMES[model]: model for model in (TextTokens, PositionDelta, PositionDone, PositionError, StreamDone)
}
"""What each event of `/explain` is."""


class EventParser:
    """Feed it bytes as they come; it gives the events that they complete, of the models given by name.

    Lines are split here and not by `httpx.Response.iter_lines`, which also splits at U+2028, U+0085 and the
    like: JSON may hold them raw, and texts of models do.
    """

    def __init__(self, models: Mapping[str, type[BaseModel]] = VERBALIZED) -> None:
        self._models = models
        self._rest = b""
        self._name = ""
        self._data: list[bytes] = []

    def feed(self, chunk: bytes) -> list[Any]:
        """Parse one chunk, of any size.

        Raises:
            InvalidResponseError: an event whose data does not fit the contract.
        """
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        events = (self._line(line.removesuffix(b"\r")) for line in lines)
        return [event for event in events if event is not None]

    def _line(self, line: bytes) -> BaseModel | None:
        if not line:
            return self._dispatch()
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"event":
            self._name = value.decode("utf-8", "replace")
        elif field == b"data":
            self._data.append(value)
        return None  # a comment (an empty field name) or a field that means nothing here

    def _dispatch(self) -> BaseModel | None:
        name, data = self._name, b"\n".join(self._data)
        self._name, self._data = "", []
        model = self._models.get(name)
        if model is None or not data:
            return None  # a keep-alive, or an event of a newer server
        try:
            return model.model_validate_json(data)
        except ValidationError as error:
            raise InvalidResponseError(f"a `{name}` event of the stream does not fit the contract") from error
