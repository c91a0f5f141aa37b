"""What may be given as texts for the source model, and which of their tokens are meant. No I/O."""

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from nla_client.calls.arguments import Column
from nla_client.calls.base import as_python
from nla_client.errors import InvalidArgumentError
from nla_client.results.explained import Tokenization
from nla_client.wire import PositionWord

Message = Mapping[str, str]
"""One message of a chat: `role` and `content`."""
OneSource = str | Sequence[Message] | Sequence[int]
"""What is one text: a str, a chat, or token ids."""
ManySources = list[str] | tuple[str, ...] | Sequence[Sequence[Message]] | Sequence[Sequence[int]]
"""What is several texts, all of one form."""
SourceLike = OneSource | ManySources | NDArray[np.integer] | Column
"""Anything that may turn out to be one text or several at run time."""
PositionsLike = PositionWord | Sequence[int | PositionWord | Sequence[int]] | NDArray[np.integer]
"""The same choice for every text, or a list of such, one a text."""
TemplateValue = bool | int | float | str | None

Form = Literal["texts", "chats", "token_ids"]
_KINDS: Final = "a str, a chat (a list of messages with role and content), a list of token ids, or a list of such"
_CHOICES: Final = "positions must be 'last', 'all', 'content' or a list of int, or a list of such, one a text"


MOST_ADDED: Final = 8
"""Special tokens that a tokenizer puts around a text, at most."""


@dataclass(frozen=True, slots=True)
class Rendering:
    """Keyword arguments that say how texts and chats become tokens."""

    add_special_tokens: bool = True
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    chat_template_kwargs: Mapping[str, TemplateValue] | None = None

    def fields(self, form: Form) -> dict[str, Any]:
        """Those that concern a form; others only where they were changed, for the server to refuse."""
        concerned = {"texts": ("add_special_tokens",), "token_ids": ()}
        given = {field.name: (as_python(getattr(self, field.name)), field.default) for field in fields(self)}
        chats = [name for name in given if name != "add_special_tokens"]
        sent = concerned.get(form, chats)
        return {name: value for name, (value, default) in given.items() if name in sent or value != default}


@dataclass(frozen=True, slots=True)
class Sources:
    """Texts for the source model, all of one form.

    Attributes:
        form: What the contract calls it.
        items: As they are sent.
        single: True where one text was given, not a list of them.
        rendering: How they become tokens.
    """

    form: Form
    items: Sequence[Any]
    single: bool
    rendering: Rendering

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.items)

    def most_tokens(self, index: int) -> int | None:
        """Tokens that one of them has at most, special ones among them; None where only the server can tell."""
        if self.form == "token_ids":
            return len(self.items[index])
        # No token stands for less than a byte.
        return len(self.items[index].encode(errors="replace")) + MOST_ADDED if self.form == "texts" else None

    def body(self, indices: Sequence[int]) -> dict[str, Any]:
        """The fields of a request for some of them."""
        return {self.form: [self.items[index] for index in indices], **self.rendering.fields(self.form)}


def as_sources(value: SourceLike, rendering: Rendering) -> Sources:
    """Check anything that may be one text or several.

    Raises:
        InvalidArgumentError: none of the forms, forms that are mixed, or something empty that leaves the form open.
    """
    plain = _plain(value)
    if isinstance(plain, str):
        return Sources("texts", [plain], True, rendering)
    if not isinstance(plain, list):
        raise InvalidArgumentError(f"text must be {_KINDS}, not a {type(value).__name__}")
    if not plain:
        raise InvalidArgumentError(f"text is an empty list: it must be {_KINDS}")
    if _is_message(plain[0]) or _is_int(plain[0]):
        form, item = _item(plain, "text")
        return Sources(form, [item], True, rendering)
    items = [_item(item, f"text[{index}]") for index, item in enumerate(plain)]
    form = items[0][0]
    for index, (other, _) in enumerate(items):
        if other != form:
            raise InvalidArgumentError(f"text[{index}] is of the form {other}, and text[0] of the form {form}")
    return Sources(form, [item for _, item in items], False, rendering)


def _plain(value: object) -> Any:
    """Columns and arrays as lists, all the way down."""
    if hasattr(value, "detach"):  # a tensor, on whatever device
        value = cast(Any, value).detach().cpu()
    if hasattr(value, "__array__"):
        value = np.asarray(value).tolist()
    if isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray):
        return [_plain(item) for item in value]
    return value


def _item(value: Any, where: str) -> tuple[Form, Any]:
    if isinstance(value, str):
        return "texts", str(value)
    if isinstance(value, list) and not value:
        raise InvalidArgumentError(f"{where} is empty: it must be a str, a chat or a list of token ids")
    if isinstance(value, list) and all(map(_is_int, value)):
        return "token_ids", [operator.index(item) for item in value]
    if isinstance(value, list) and any(map(_is_message, value)):
        return "chats", [_message(item, f"{where}[{index}]") for index, item in enumerate(value)]
    raise InvalidArgumentError(f"{where} must be a str, a chat or a list of token ids, not {value!r:.80}")


def _is_message(value: object) -> bool:
    return isinstance(value, Mapping)


def _is_int(value: object) -> bool:
    return hasattr(value, "__index__") and not isinstance(value, bool | np.bool_)


def _message(value: Any, where: str) -> dict[str, Any]:
    if not _is_message(value):
        raise InvalidArgumentError(f"{where} must be a message with role and content, not {value!r:.80}")
    for name in ("role", "content"):
        if not isinstance(value.get(name), str):
            raise InvalidArgumentError(f"{where} must have a {name!r} that is a str, not {value.get(name)!r:.80}")
    return dict(value)


@dataclass(frozen=True, slots=True)
class Chosen:
    """Some tokens of one text.

    Attributes:
        index: Of the text in the caller's batch.
        choice: As it is sent: a word, or positions each once, in the order of the text where that can be told.
        count: How many they are; None where that cannot be told before the text has been tokenized.
    """

    index: int
    choice: PositionWord | list[int]
    count: int | None

    def counted(self, told: Tokenization) -> "Chosen":
        """The same as a list of positions, by the text's tokens; a word that names none of them stays one."""
        if self.count is not None:
            return self
        places = self._places(told)
        return Chosen(self.index, places or self.choice, len(places))

    def _places(self, told: Tokenization) -> list[int]:
        if isinstance(self.choice, str):
            whole = self.choice == "all"
            return [token.position for token in told.tokens if whole or (token.content and not token.special)]
        size = len(told.tokens)
        return sorted({place + size if -size <= place < 0 else place for place in self.choice})

    def cut(self, size: int) -> "list[Chosen]":
        """In pieces of at most so many positions, where it is a list."""
        if isinstance(self.choice, str) or len(self.choice) <= size:
            return [self]
        parts = [self.choice[start : start + size] for start in range(0, len(self.choice), size)]
        return [Chosen(self.index, part, len(part)) for part in parts]


def as_chosen(positions: PositionsLike, count: int) -> list[Chosen]:
    """Check which tokens are meant of each of `count` texts.

    Raises:
        InvalidArgumentError: none of the forms, a list that names none, or not as many as there are texts.
    """
    plain = _plain(positions)
    if isinstance(plain, list) and plain and not all(map(_is_int, plain)):
        if len(plain) != count:
            raise InvalidArgumentError(f"positions has {len(plain)} entries for {count} texts: {_CHOICES}")
        return [_chosen(choice, index, f"positions[{index}]") for index, choice in enumerate(plain)]
    return [_chosen(plain, index, "positions") for index in range(count)]


def _chosen(value: Any, index: int, where: str) -> Chosen:
    if isinstance(value, str) and value in get_args(PositionWord):
        return Chosen(index, cast(PositionWord, value), 1 if value == "last" else None)
    if not isinstance(value, list) or not all(map(_is_int, value)):
        raise InvalidArgumentError(f"{where} is {value!r:.80}: {_CHOICES}")
    if not value:
        raise InvalidArgumentError(f"{where} is empty: it must name at least one position")
    places = sorted({operator.index(item) for item in value})
    is_told = places[0] >= 0 or places[-1] < 0
    return Chosen(index, places, len(places) if is_told else None)
