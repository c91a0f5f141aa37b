"""Source texts on the real tokenizers, with their chat templates."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from nla_client.wire import ChatMessage
from nla_gateway.errors import InvalidRequest
from nla_gateway.pair.positions import choose
from nla_gateway.pair.texts import SourceTokenizer
from tests.gateway.pair.chats import Piece, chat, check_pieces, read_chat
from tests.gateway.pair.spans import check_tokens
from tests.real.conftest import Needed
from tests.real.fetch import LLAMA3_3_CHAT, TOKENIZERS
from tests.real.models import MODELS

FAMILY: Final = "👩‍👩‍👧 🏳️‍🌈 🫩"
TEXTS: Final = (
    "A plain sentence.",
    f"{FAMILY} and e\u0301, \u1100\u1161\u11a8",
    "关于数据库的文字。 Ещё слово, कुछ शब्द, ข้อความ, שלום",
    "  two spaces\tand a tab\r\n\n end ",
    "\u0000\u2028\u00a0\u2581\ufffd",
    "<bos><s><|begin_of_text|><|im_start|>system\n",
)
CHATS: Final = (
    chat(("user", "hi")),
    chat(("user", " hi\n\n"), ("assistant", "\tho "), ("user", "\n")),
    chat(("system", "Be brief."), ("user", FAMILY), ("assistant", "关于数据库的文字。"), ("user", "שלום e\u0301")),
    chat(("user", ""), ("assistant", ""), ("user", "hi"), ("assistant", "")),
    chat(("system", ""), ("user", "")),
    chat(
        ("system", "<|im_end|><|eot_id|><end_of_turn>"),
        ("user", "hi<|im_end|>\n<|im_start|>user\nhi<end_of_turn>\n<start_of_turn>user\nhi"),
        ("assistant", "<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nhi<bos><|begin_of_text|>"),
        ("user", "user"),
    ),
    chat(
        ("system", "Today Date: 26 Jul 2024\n\n"),
        ("user", "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n<|eot_id|>"),
        ("assistant", "26 Jul 2024"),
    ),
    chat(("user", "user"), ("assistant", "assistant"), ("user", "model"), ("assistant", "\n")),
)
ALPHABET: Final = st.characters(codec="utf-8")
CONTENT: Final = st.text(ALPHABET, max_size=20) | st.lists(
    st.sampled_from(
        ["user", "\n", " ", "<|im_end|>", "<|eot_id|>", "<end_of_turn>", "26 Jul 2024\n\n", "日本", FAMILY, "e\u0301"]
    ),
    max_size=5,
).map("".join)
Pieces = Callable[[list[ChatMessage]], list[Piece]]


def turns(
    header: str, ending: str, strip: Callable[[str], str] = str, *, names: dict[str, str] | None = None
) -> Pieces:
    """Say what a template writes that gives every message a turn."""

    def pieces(messages: list[ChatMessage]) -> list[Piece]:
        said = []
        for index, message in enumerate(messages):
            role = (names or {}).get(message.role, message.role)
            said += [Piece(header.format(role), index), Piece(strip(message.content), index, content=True)]
            said.append(Piece(ending, index))
        return [*said, Piece(header.format((names or {}).get("assistant", "assistant")))]

    return pieces


def with_default(pieces: Pieces, default: str) -> Pieces:
    """Put a system message of the template's own before a chat that has none."""
    return lambda messages: [Piece(default)] * (messages[0].role != "system") + pieces(messages)


def gemma(messages: list[ChatMessage]) -> list[Piece]:
    """A system message begins the user's turn."""
    plain = turns("<start_of_turn>{}\n", "<end_of_turn>\n", str.strip, names={"assistant": "model"})
    if messages[0].role != "system":
        return [Piece("<bos>"), *plain(messages)]
    header, *rest = plain(messages[1:])
    moved = [Piece(one.text, None if one.message is None else one.message + 1, one.content) for one in rest]
    system = [Piece(messages[0].content, 0, content=True)]
    # Where nothing of the system's is before it, all of the header is the user's.
    return [Piece("<bos>"), Piece(header.text, 0), *system, Piece("\n\n"), *moved]


CHATML: Final = turns("<|im_start|>{}\n", "<|im_end|>\n")
LLAMA: Final = turns("<|start_header_id|>{}<|end_header_id|>\n\n", "<|eot_id|>", str.strip)
LLAMA_SYSTEM: Final = (
    "<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"
)


def llama3_3(messages: list[ChatMessage]) -> list[Piece]:
    """The system has a turn in every chat, which begins with two dates."""
    bos = Piece("<|begin_of_text|>")
    if messages[0].role == "system":
        return [bos, Piece(LLAMA_SYSTEM, 0), *LLAMA(messages)[1:]]
    return [bos, Piece(LLAMA_SYSTEM + "<|eot_id|>"), *LLAMA(messages)]


NAMED: Final = "<|im_start|>system\nYou are {}<|im_end|>\n"
PIECES: Final[dict[str, Pieces]] = {
    "qwen2_5": with_default(CHATML, NAMED.format("Qwen, created by Alibaba Cloud. You are a helpful assistant.")),
    "qwen3": CHATML,
    "gemma3": gemma,
    "llama3": lambda messages: [Piece("<|begin_of_text|>"), *LLAMA(messages)],
    "llama3_3": llama3_3,
    "smollm2": with_default(CHATML, NAMED.format("a helpful AI assistant named SmolLM, trained by Hugging Face")),
}


@pytest.fixture(scope="module", params=PIECES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def tokenizer(name: str, needed: Needed, tmp_path_factory: pytest.TempPathFactory) -> SourceTokenizer:
    return SourceTokenizer.load(folder_of(name, needed, tmp_path_factory))


def folder_of(name: str, needed: Needed, folders: pytest.TempPathFactory) -> Path:
    if name == "llama3":
        return needed(TOKENIZERS["llama3_1"])  # which is the package's name
    if name not in {"llama3_3", "smollm2"}:
        return needed(TOKENIZERS[name])
    folder = folders.mktemp(name)
    if name == "llama3_3":
        save_llama3_3(folder, needed)
        return folder
    (gguf,) = needed(MODELS["smollm2-135m"].weights).glob("*.gguf")
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)
    return folder


def save_llama3_3(folder: Path, needed: Needed) -> None:
    """Give Llama 3's tokenizer the newer template: only names of reserved tokens differ otherwise."""
    tokenizer = AutoTokenizer.from_pretrained(needed(TOKENIZERS["llama3_1"]))
    (template,) = needed(LLAMA3_3_CHAT).iterdir()
    tokenizer.chat_template = template.read_text()
    tokenizer.save_pretrained(folder)


def thinks(name: str, messages: list[ChatMessage]) -> bool:
    """Whether Qwen3's template puts an empty think block into the chat, which has a test of its own."""
    return name == "qwen3" and messages[-1].role == "assistant"


def check_chat(name: str, tokenizer: SourceTokenizer, messages: list[ChatMessage]) -> None:
    rendered = tokenizer.tokenizer.apply_chat_template(
        [dict(message) for message in messages], tokenize=False, add_generation_prompt=True
    )
    read = read_chat(tokenizer, messages)
    assert read.text == rendered
    assert read.ids == tokenizer.tokenizer.encode(rendered, add_special_tokens=False)
    check_pieces(read, messages, PIECES[name](messages))


@pytest.mark.parametrize("messages", CHATS, ids=range(len(CHATS)))
def test_chats(name: str, tokenizer: SourceTokenizer, messages: list[ChatMessage]) -> None:
    check_chat(name, tokenizer, messages if not thinks(name, messages) else messages[:-1])


@given(system=CONTENT | st.none(), contents=st.lists(CONTENT, min_size=1, max_size=3))
def test_any_chat(name: str, tokenizer: SourceTokenizer, system: str | None, contents: list[str]) -> None:
    first = [] if system is None else [("system", system)]
    said = [(("user", "assistant")[at % 2], content) for at, content in enumerate(contents)]
    messages = chat(*first, *said)
    check_chat(name, tokenizer, messages if not thinks(name, messages) else messages[:-1])


@given(text=st.text(ALPHABET, max_size=40) | st.sampled_from(TEXTS))
@example(text="".join(TEXTS))
@example(text="a\u0301\u0323\u0301")
def test_any_text(tokenizer: SourceTokenizer, text: str) -> None:
    own = tokenizer.tokenizer(text)["input_ids"]
    bos = tokenizer.tokenizer.bos_token_id
    if not own:
        with pytest.raises(InvalidRequest, match="no token at all"):
            tokenizer.read_text(text, add_special_tokens=True, param=None)
        return
    read = tokenizer.read_text(text, add_special_tokens=True, param=None)
    adds = bos is not None and tokenizer.tokenizer("")["input_ids"] == [bos]
    assert read.ids == (own[1:] if adds and own[1:2] == [bos] else own)
    assert read.text == text
    check_tokens(read)
    added = read.tokens[0].start == read.tokens[0].end
    assert added == (adds and not text.startswith(tokenizer.tokenizer.bos_token))
    assert [token.content for token in read.tokens] == [not added] + [True] * (len(own) and len(read.tokens) - 1)


@given(data=st.data())
def test_any_ids(tokenizer: SourceTokenizer, data: st.DataObject) -> None:
    bytes_first = st.integers(0, 500) | st.integers(0, len(tokenizer.tokenizer) - 1)  # where the pieces of UTF-8 are
    ids = data.draw(st.lists(bytes_first, min_size=1, max_size=40))
    read = tokenizer.read_ids(ids, param=None)
    assert read.ids == ids
    assert read.text == tokenizer.tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    check_tokens(read)


@pytest.mark.parametrize("text", TEXTS)
def test_ids_of_a_text_have_its_spans(name: str, tokenizer: SourceTokenizer, text: str) -> None:
    read = tokenizer.read_text(text, add_special_tokens=False, param=None)
    again = tokenizer.read_ids(read.ids, param=None)
    if again.text == text:
        assert again == read
    else:
        assert (name in {"qwen2_5", "qwen3"} and "e\u0301" in text) or (name == "gemma3" and "\u2581" in text)


def test_content_is_what_messages_say(tokenizer: SourceTokenizer) -> None:
    read = read_chat(tokenizer, chat(("user", "one two"), ("assistant", "three"), ("user", "four five")))
    chosen = [read.tokens[position] for position in choose("content", read, "positions")]
    assert "".join(token.text for token in chosen) == "one twothreefour five"
    assert {token.role for token in chosen} == {"user", "assistant"}


@pytest.fixture(scope="module")
def qwen3(needed: Needed) -> SourceTokenizer:
    return SourceTokenizer.load(needed(TOKENIZERS["qwen3"]))


def test_thoughts_of_qwen3(qwen3: SourceTokenizer) -> None:
    """Earlier ones are left out, those of the last turn are tidied up, and none is put in without being asked for."""
    answer, tidy = "<think>\na\n</think>\n\nb", "<think>a a</think>b"
    messages = chat(("user", "u"), ("assistant", tidy), ("user", "v"), ("assistant", answer))
    start, end = "<|im_start|>assistant\n", "<|im_end|>\n"
    before = [*CHATML(messages[:1])[:-1], Piece(start, 1), Piece("b", 1, content=True), Piece(end, 1)]
    before += [Piece("<|im_start|>user\n", 2), Piece("v", 2, content=True), Piece(end, 2), Piece(start, 3)]
    read = read_chat(qwen3, messages, prompt=False)
    check_pieces(read, messages, [*before, Piece(answer, 3, content=True), Piece(end, 3)])
    messages[3] = ChatMessage(role="assistant", content=tidy)
    thought = [Piece("a a", 3, content=True), Piece("\n</think>\n\n", 3), Piece("b", 3, content=True), Piece(end, 3)]
    check_pieces(read_chat(qwen3, messages, prompt=False), messages, [*before, Piece("<think>\n", 3), *thought])
    messages[3] = ChatMessage(role="assistant", content="b")
    plain = [*before, Piece("<think>\n\n</think>\n\n", 3), Piece("b", 3, content=True)]
    check_pieces(read_chat(qwen3, messages, prompt=False), messages, [*plain, Piece(end, 3)])
    check_pieces(read_chat(qwen3, messages, prompt=False, stays_open=True), messages, plain)


def test_qwen3_thinks_as_it_is_told(qwen3: SourceTokenizer) -> None:
    messages = chat(("user", "hi"))
    for options, opened in (
        (None, ""),
        ({"enable_thinking": True}, ""),
        ({"enable_thinking": False}, "<think>\n\n</think>\n\n"),
    ):
        read = read_chat(qwen3, messages, options=options)
        check_pieces(read, messages, [*CHATML(messages), Piece(opened)])


@pytest.mark.parametrize("stays_open", [True, False])
def test_how_a_chat_ends(name: str, tokenizer: SourceTokenizer, stays_open: bool) -> None:
    messages = chat(("user", "hi"), ("assistant", "ho"), ("user", "hi there"))
    pieces = PIECES[name](messages)[:-1]
    read = read_chat(tokenizer, messages, prompt=False, stays_open=stays_open)
    check_pieces(read, messages, pieces[:-1] if stays_open else pieces)


def test_llama3_3_knows_the_day_it_is_told(needed: Needed, tmp_path: Path) -> None:
    save_llama3_3(tmp_path, needed)
    messages = chat(("system", "Be brief."), ("user", "26 Jul 2024"))
    read = read_chat(SourceTokenizer.load(tmp_path), messages, options={"date_string": "1 Apr 2031"})
    bos, header, *rest = llama3_3(messages)
    check_pieces(read, messages, [bos, Piece(header.text.replace("26 Jul 2024", "1 Apr 2031"), 0), *rest])


def test_roles_must_alternate(needed: Needed) -> None:
    gemma3 = SourceTokenizer.load(needed(TOKENIZERS["gemma3"]))
    with pytest.raises(InvalidRequest, match="Conversation roles must alternate user/assistant"):
        read_chat(gemma3, chat(("user", "hi"), ("user", "ho")))


def test_llama2_has_no_template_but_reads_texts(needed: Needed) -> None:
    """Its tokenizer puts a space before every text, which is in none."""
    llama2 = SourceTokenizer.load(needed(TOKENIZERS["llama2"]))
    with pytest.raises(InvalidRequest, match="no chat template"):
        read_chat(llama2, chat(("user", "hi")))
    for text in TEXTS:
        read = llama2.read_text(text, add_special_tokens=True, param=None)
        check_tokens(read)
        check_tokens(llama2.read_ids(read.ids, param=None))
    read = llama2.read_text("\nhi", add_special_tokens=True, param=None)
    assert [(token.text, token.start) for token in read.tokens] == [("<s>", 0), ("", 0), ("\n", 0), ("hi", 1)]
