"""Requests with texts: exactly one form, whole lists, and errors that name the place."""

from typing import Any

import pytest
from pydantic import ValidationError

from nla_client.wire import TokenizeRequest
from nla_gateway.errors import InvalidRequest
from nla_gateway.pair.given import given_texts
from nla_gateway.pair.texts import SourceTokenizer
from tests.plain import TOY

HI: dict[str, Any] = {"role": "user", "content": "hi"}
HO: dict[str, Any] = {"role": "assistant", "content": "ho"}
BROKEN: dict[str, Any] = {"role": "user", "content": "\ud800"}


@pytest.fixture(scope="module")
def tokenizer() -> SourceTokenizer:
    return SourceTokenizer.load(TOY / "verbalizer")


def request(**fields: Any) -> TokenizeRequest:
    return TokenizeRequest.model_validate(fields)


@pytest.mark.parametrize(
    ("fields", "params", "texts"),
    [
        ({"texts": "hi"}, ["texts"], ["hi"]),
        ({"texts": ["hi", "ho"]}, ["texts[0]", "texts[1]"], ["hi", "ho"]),
        ({"token_ids": [755]}, ["token_ids"], ["<|endoftext|>"]),
        ({"token_ids": [[755], [754, 754]]}, ["token_ids[0]", "token_ids[1]"], ["<|endoftext|>", "<|im_end|>" * 2]),
        (
            {"chats": [HI, HO], "add_generation_prompt": False},
            ["chats"],
            ["<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nho<|im_end|>\n"],
        ),
        (
            {"chats": [[HI], [HI, HO]], "continue_final_message": True},
            ["chats[0]", "chats[1]"],
            ["<|im_start|>user\nhi", "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nho"],
        ),
        ({"chats": [HI]}, ["chats"], ["<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"]),
    ],
)
def test_forms(tokenizer: SourceTokenizer, fields: dict[str, Any], params: list[str], texts: list[str]) -> None:
    assert [one.param for one in given_texts(request(**fields))] == params
    assert [read.text for read in (one.read(tokenizer) for one in given_texts(request(**fields)))] == texts


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({}, "texts", "exactly one of texts, chats and token_ids; there is none"),
        ({"texts": "a", "token_ids": [1]}, "texts", "there is texts and token_ids"),
        ({"chats": []}, "chats", "there are no messages: send at least one"),
        ({"chats": [[HI], []]}, "chats[1]", "there are no messages"),
        ({"chats": [HI, HO, [HI]]}, "chats[2]", "are mixed: send a list of messages, or a list of such lists"),
        ({"token_ids": []}, "token_ids", "there are no ids"),
        ({"token_ids": [[1], [2], []]}, "token_ids[2]", "there are no ids"),
        ({"token_ids": [[1], 2]}, "token_ids[1]", "are mixed"),
        ({"token_ids": [[1, 2, 9999]]}, "token_ids[0][2]", "no token 9999"),
        ({"token_ids": [1, -1]}, "token_ids[1]", "no token -1"),
        ({"texts": ["a", ""]}, "texts[1]", "no token at all"),
        ({"texts": ["a", "\ud800"]}, "texts[1]", "half a surrogate pair"),
        ({"chats": [HI, BROKEN]}, "chats[1].content", "half a surrogate pair"),
        ({"chats": [[HI], [HI, HO, BROKEN]]}, "chats[1][2].content", "half a surrogate pair"),
        ({"texts": "a", "continue_final_message": True}, "continue_final_message", "goes with chats, not with texts"),
        ({"token_ids": [1], "chat_template_kwargs": {"a": 1}}, "chat_template_kwargs", "not with token_ids"),
        (
            {"chats": [HI], "add_generation_prompt": True, "continue_final_message": True},
            "continue_final_message",
            "exclude each other",
        ),
        ({"chats": [HI], "chat_template_kwargs": {"nothing": 1}}, "chat_template_kwargs.nothing", "knows no 'nothing'"),
    ],
)
def test_mistakes(tokenizer: SourceTokenizer, fields: dict[str, Any], param: str, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        [one.read(tokenizer) for one in given_texts(request(**fields))]
    assert caught.value.param == param
    assert message in caught.value.message


def test_an_empty_list_of_texts_does_not_come_so_far() -> None:
    with pytest.raises(ValidationError):
        request(texts=[])
