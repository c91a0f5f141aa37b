"""Chats as tokens: a content's characters are its message's, the template's are not; or nothing is said."""

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nla_client.wire import ChatMessage
from nla_gateway.errors import InvalidRequest
from nla_gateway.pair.texts import SourceTokenizer
from tests.gateway.pair.chats import Piece, chat, check_pieces, read_chat
from tests.plain import TOY

UNICODE = st.text(st.characters(codec="utf-8"), max_size=20)
WORDS = (
    "user",
    "assistant",
    "\n",
    " ",
    "<|im_end|>",
    "<|im_start|>",
    "<think>",
    "</think>",
    "hi",
    "日本",
    "e\u0301",
    "👩‍👩‍👧",
)
CONTENTS = UNICODE | st.lists(st.sampled_from(WORDS), max_size=6).map("".join)
ROLES = st.sampled_from(["system", "user", "assistant", "tool"]) | UNICODE
BOS = {"bos_token": "<|im_start|>"}
MESSAGES = st.lists(st.builds(ChatMessage, role=ROLES, content=CONTENTS), min_size=1, max_size=5)

TURN = "{% for m in messages %}[{{ m.role }}]{{ CONTENT }}[end]{% endfor %}"
"""A template with another way with contents."""


@cache
def saying(content: str) -> SourceTokenizer:
    """The toy pair's tokenizer with a template of our own."""
    made = SourceTokenizer.load(TOY / "verbalizer")
    made.tokenizer.chat_template = content if "messages" in content else TURN.replace("CONTENT", content)
    return made


def turn(index: int, role: str, *said: str | Piece) -> list[Piece]:
    """A turn as TURN writes it."""
    contents = [Piece(part, index, content=True) if isinstance(part, str) else part for part in said]
    return [Piece(f"[{role}]", index), *contents, Piece("[end]", index)]


def toy_pieces(messages: list[ChatMessage], *, prompt: bool, stays_open: bool) -> list[Piece]:
    pieces = []
    for index, message in enumerate(messages):
        header, content = f"<|im_start|>{message.role}\n", Piece(message.content, index, content=True)
        pieces += [Piece(header, index), content, Piece("<|im_end|>\n", index)]
    return (pieces[:-1] if stays_open else pieces) + [Piece("<|im_start|>assistant\n")] * prompt


@pytest.fixture(scope="module")
def tokenizer() -> SourceTokenizer:
    return SourceTokenizer.load(TOY / "verbalizer")


@given(messages=MESSAGES, end=st.sampled_from(["prompt", "open", "closed"]))
def test_any_chat(tokenizer: SourceTokenizer, messages: list[ChatMessage], end: str) -> None:
    read = read_chat(tokenizer, messages, prompt=end == "prompt", stays_open=end == "open")
    check_pieces(read, messages, toy_pieces(messages, prompt=end == "prompt", stays_open=end == "open"))
    assert read.ids == tokenizer.tokenizer.encode(read.text, add_special_tokens=False)


WAYS = {
    "as it is": "m.content",
    "stripped": "m.content | trim",
    "left": "m.content.lstrip()",
    "right": "m.content.rstrip()",
}


@pytest.mark.parametrize("way", WAYS)
@given(messages=MESSAGES)
def test_contents_may_be_stripped(way: str, messages: list[ChatMessage]) -> None:
    stripped = {"as it is": str, "stripped": str.strip, "left": str.lstrip, "right": str.rstrip}[way]
    read = read_chat(saying(WAYS[way]), messages)
    pieces = [
        piece
        for index, message in enumerate(messages)
        for piece in turn(index, message.role, stripped(message.content))
    ]
    check_pieces(read, messages, pieces)


CHANGING = (
    "m.content | upper",
    "m.content | reverse",
    "m.content | tojson",
    "m.content[:3]",
    "m.content ~ m.content",
    "m.content.split('</think>')[-1]",
    "'(nothing)' if m.content.startswith('h') else m.content",
    "m.content if m.content else '(empty)'",
    "m.content | length",
    "'user'",
    "{% for m in messages %}{{ m.content }}{% endfor %}",
    "{% for m in messages | reverse %}{{ m.role }}{{ m.content }}{% endfor %}",
)


@given(messages=MESSAGES, template=st.sampled_from(CHANGING))
def test_no_template_makes_it_lie(messages: list[ChatMessage], template: str) -> None:
    """What is called content is in the content; the template's other characters are not checked for being missed."""
    tokenizer = saying(template)
    if not tokenizer.tokenizer.apply_chat_template([dict(message) for message in messages], tokenize=False):
        with pytest.raises(InvalidRequest, match="no token at all"):
            read_chat(tokenizer, messages)
        return
    read = read_chat(tokenizer, messages)
    assert read.ids == tokenizer.tokenizer.encode(read.text, add_special_tokens=False)
    for token in read.tokens:
        assert (token.message is None) == (token.role is None)
        if token.content:
            assert token.message is not None
            content = messages[token.message].content
            assert any(character in content for character in token.text)


def test_two_messages_that_say_what_the_template_says(tokenizer: SourceTokenizer) -> None:
    messages = chat(("user", "hi<|im_end|>\n<|im_start|>user\nhi"), ("user", "user"), ("assistant", "assistant\n"))
    check_pieces(read_chat(tokenizer, messages), messages, toy_pieces(messages, prompt=True, stays_open=False))


def test_a_content_in_parts() -> None:
    """As Qwen3's template: what was thought is taken out, tidied up, and put back."""
    split = "{% set p = m.content.split('</think>') %}"
    apart = saying(
        "{% for m in messages %}" + split + "[{{ m.role }}]{% if p | length > 1 %}<think>\n"
        "{{ p[0].split('<think>')[-1].strip('\n') }}\n</think>\n\n{% endif %}"
        "{{ p[-1].lstrip('\n') }}[end]{% endfor %}"
    )
    messages = chat(("user", "hi"), ("assistant", "<think>a b</think>c"), ("assistant", "<think>\na\n</think>\n\nc"))
    tidy = [Piece("<think>\n", 1), "a b", Piece("\n</think>\n\n", 1), "c"]
    same = messages[2].content
    pieces = [*turn(0, "user", "hi"), *turn(1, "assistant", *tidy), *turn(2, "assistant", same)]
    check_pieces(read_chat(apart, messages), messages, pieces)


def test_a_message_that_is_left_out() -> None:
    kept = saying("{% for m in messages if m.role != 'tool' %}[{{ m.role }}]{{ m.content }}[end]{% endfor %}")
    messages = chat(("tool", "user"), ("user", "hi"), ("tool", "end"), ("assistant", "hi"), ("tool", "end"))
    check_pieces(read_chat(kept, messages), messages, [*turn(1, "user", "hi"), *turn(3, "assistant", "hi")])


def test_a_content_that_the_template_looks_at() -> None:
    """No mark may stand before it: it is looked for between its neighbours, and must be there once."""
    looking = saying("('told: ' if m.content.startswith('hi') and m.content.endswith('.') else '') + m.content")
    messages = chat(("user", "a"), ("user", "hi there."), ("user", "a"))
    told = turn(1, "user", "hi there.")
    told.insert(1, Piece("told: ", 1))
    check_pieces(read_chat(looking, messages), messages, [*turn(0, "user", "a"), *told, *turn(2, "user", "a")])


def test_a_default_system_message_is_nobodys() -> None:
    default = "{% if messages[0].role != 'system' %}[system]Be good.[end]{% endif %}" + TURN
    tokenizer = saying(default.replace("CONTENT", "m.content"))
    for messages in (chat(("user", "hi")), chat(("user", ""), ("assistant", "ho"), ("user", "hi"))):
        turns = [piece for at, message in enumerate(messages) for piece in turn(at, message.role, message.content)]
        check_pieces(read_chat(tokenizer, messages), messages, [Piece("[system]Be good.[end]"), *turns])
    own = chat(("system", "Be bad."))
    check_pieces(read_chat(tokenizer, own), own, turn(0, "system", "Be bad."))


def test_a_bos_is_nobodys_unless_it_begins_every_turn() -> None:
    turns = TURN.replace("CONTENT", "m.content")
    once, always = saying("{{ bos_token }}" + turns), saying(turns.replace("[{{", "{{ bos_token }}[{{"))
    for tokenizer in (once, always):
        tokenizer.tokenizer.add_special_tokens(BOS)
    for role in ("system", "user"):
        messages = chat((role, "hi"))
        read = read_chat(once, messages)
        check_pieces(read, messages, [Piece("<|im_start|>"), *turn(0, role, "hi")])
        assert read.ids.count(756) == 1
        header, *rest = turn(0, role, "hi")
        check_pieces(read_chat(always, messages), messages, [Piece("<|im_start|>" + header.text, 0), *rest])


def test_options_reach_the_template(tokenizer: SourceTokenizer) -> None:
    told = saying(
        TURN.replace("CONTENT", "m.content")
        + "{% if add_generation_prompt and enable_thinking is false %}<think></think>{% endif %}"
    )
    messages = chat(("user", "hi"))
    assert read_chat(told, messages).text == "[user]hi[end]"
    closed = read_chat(told, messages, options={"enable_thinking": False})
    check_pieces(closed, messages, [*turn(0, "user", "hi"), Piece("<think></think>")])
    assert (
        read_chat(tokenizer, messages, options={"enable_thinking": False}).text == read_chat(tokenizer, messages).text
    )
    for name, value in (("enable_thinking", True), ("more", False), ("a b", False), ("", False)):
        with pytest.raises(InvalidRequest, match="the chat template knows no") as caught:
            read_chat(tokenizer, messages, options={name: value})
        assert caught.value.param == f"chat_template_kwargs.{name}"


@pytest.mark.parametrize(
    "name", ["messages", "tools", "chat_template", "tokenize", "add_generation_prompt", "conversation", "eos_token"]
)
def test_options_that_are_not_the_callers_are_refused(tokenizer: SourceTokenizer, name: str) -> None:
    with pytest.raises(InvalidRequest, match="not the caller's to give") as caught:
        read_chat(tokenizer, chat(("user", "hi")), options={name: "x"})
    assert caught.value.param == f"chat_template_kwargs.{name}"


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('Roles must alternate!') }}", "Roles must alternate!"),
        ("{{ messages[0].nothing.at_all }}", "has no attribute 'nothing'"),
        ("{{ 1 // 0 }}{{ messages }}", "zero"),
    ],
)
def test_a_template_that_refuses_says_why(template: str, reason: str) -> None:
    refusing = saying("{% if messages %}" + template + "{% endif %}")
    with pytest.raises(InvalidRequest, match=reason) as caught:
        read_chat(refusing, chat(("user", "hi")))
    assert caught.value.message.startswith("chats: the chat template refuses it: ")
    assert "\n" not in caught.value.message
    assert caught.value.param == "chats"


def test_a_last_message_that_cannot_stay_open_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="does not appear in the chat"):
        read_chat(saying("m.content | upper"), chat(("user", "hi")), prompt=False, stays_open=True)


def test_a_tokenizer_without_a_template_is_told() -> None:
    bare = SourceTokenizer.load(TOY / "verbalizer")
    bare.tokenizer.chat_template = None
    with pytest.raises(InvalidRequest, match="no chat template: send `texts` instead") as caught:
        read_chat(bare, chat(("user", "hi")))
    assert caught.value.param == "chats"


def test_half_a_surrogate_pair_is_refused(tokenizer: SourceTokenizer) -> None:
    for field, message in (("role", ("\ud800", "hi")), ("content", ("user", "\ud800"))):
        with pytest.raises(InvalidRequest, match="half a surrogate pair") as caught:
            read_chat(tokenizer, chat(("user", "hi"), message))
        assert caught.value.param == f"chats[1].{field}"
    with pytest.raises(InvalidRequest, match="half a surrogate pair"):
        read_chat(tokenizer, chat(("user", "hi")), options={"role": "\ud800"})


def test_a_chat_with_every_private_character_is_read(tokenizer: SourceTokenizer) -> None:
    """No mark is left: nothing is said of its tokens, and none is lost."""
    read = read_chat(tokenizer, chat(("user", "".join(map(chr, range(0xF0000, 0xFFFFE))))), prompt=False)
    assert not any(token.content or token.message is not None for token in read.tokens)
