"""The texts of a request, one by one: which form they have, whether they are whole, and what errors call them.

Knows the contract's requests; knows no tokenizer but by what it reads.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

from nla_client.wire import ChatMessage, TextRequest
from nla_gateway.errors import InvalidRequest
from nla_gateway.pair.texts import SourceText, SourceTokenizer

T = TypeVar("T")

FORMS = ("texts", "chats", "token_ids")
MOST_MESSAGES: Final = 1024
"""Of a chat: whose each character is may take a rendering of the whole for each of them."""
Read = Callable[[SourceTokenizer], SourceText]
"""Reads one text; raises InvalidRequest."""


@dataclass(frozen=True)
class GivenText:
    """One text of a request."""

    param: str
    """Its name in errors: `texts` where there is one alone, `texts[3]` in a list."""
    read: Read
    characters: int = 0
    """That it has at least, where it is no list of ids."""
    ids: int = 0
    """Tokens, where it is one."""
    is_chat: bool = False


def given_texts(request: TextRequest) -> list[GivenText]:
    """Take a request's texts apart, reading none of them yet: that takes time, and is the caller's to spread.

    Raises:
        InvalidRequest: not exactly one form, an empty or mixed list, or options that do not go together.
    """
    forms = [name for name in FORMS if getattr(request, name) is not None]
    if len(forms) != 1:
        found = " and ".join(forms) or "none"
        raise InvalidRequest(
            f"send exactly one of texts, chats and token_ids; there is {found}", param=(forms or FORMS)[0]
        )
    if request.chats is not None:
        return _chats(request, request.chats)
    _refuse_chat_options(request, forms[0])
    if request.token_ids is not None:
        named = _one_or_many(request.token_ids, "token_ids", int, "ids")
        read = SourceTokenizer.read_ids
        return [GivenText(param, partial(read, ids=ids, param=param), ids=len(ids)) for param, ids in named]
    texts = request.texts if request.texts is not None else []
    return [
        GivenText(
            param,
            partial(SourceTokenizer.read_text, text=text, add_special_tokens=request.add_special_tokens, param=param),
            characters=len(text),
        )
        for param, text in ([("texts", texts)] if isinstance(texts, str) else _named(texts, "texts"))
    ]


def _chats(request: TextRequest, chats: Sequence[ChatMessage | list[ChatMessage]]) -> list[GivenText]:
    asked = request.add_generation_prompt and "add_generation_prompt" in request.model_fields_set
    if request.continue_final_message and asked:
        raise InvalidRequest(
            "add_generation_prompt and continue_final_message exclude each other: a message that stays open is followed"
            " by none; leave one out",
            param="continue_final_message",
        )
    read = partial(
        SourceTokenizer.read_chat,
        add_generation_prompt=request.add_generation_prompt and not request.continue_final_message,
        continue_final_message=request.continue_final_message,
        chat_template_kwargs=request.chat_template_kwargs,
    )
    named = _one_or_many(chats, "chats", ChatMessage, "messages")
    for param, messages in named:
        if len(messages) > MOST_MESSAGES:
            raise InvalidRequest(
                f"{param}: the chat has {len(messages)} messages; at most {MOST_MESSAGES} are taken", param=param
            )
    return [
        GivenText(
            param,
            partial(read, messages=messages, param=param),
            characters=sum(len(it.content) for it in messages),
            is_chat=True,
        )
        for param, messages in named
    ]


def _refuse_chat_options(request: TextRequest, form: str) -> None:
    """Refuse what would do nothing, though its caller thinks that it does."""
    for name in ("continue_final_message", "chat_template_kwargs"):
        if getattr(request, name):
            raise InvalidRequest(f"{name} goes with chats, not with {form}: leave it out", param=name)


def _one_or_many(values: Sequence[T | list[T]], name: str, kind: type[T], what: str) -> list[tuple[str, list[T]]]:
    """Tell one list from a list of lists; none may be empty."""
    alone = [value for value in values if isinstance(value, kind)]
    lists = [value for value in values if isinstance(value, list)]
    if alone and lists:
        index = next(at for at, value in enumerate(values) if isinstance(value, list) != isinstance(values[0], list))
        raise InvalidRequest(
            f"{name}[{index}]: {what} and lists of {what} are mixed: send a list of {what}, or a list of such lists",
            param=f"{name}[{index}]",
        )
    named = _named(lists, name) if lists else [(name, alone)]
    for param, of in named:
        if not of:
            raise InvalidRequest(f"{param}: there are no {what}: send at least one", param=param)
    return named


def _named(values: Sequence[T], name: str) -> list[tuple[str, T]]:
    return [(f"{name}[{index}]", value) for index, value in enumerate(values)]
