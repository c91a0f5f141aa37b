"""Plain texts and ids as tokens: the tokenizer's own ids, spans that cover the text, and no BOS before another."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from nla_gateway.errors import CheckpointError, InvalidRequest
from nla_gateway.pair import texts
from nla_gateway.pair.texts import Limit, SourceTokenizer
from tests.gateway.pair.spans import check_tokens
from tests.plain import TOY

Make = Callable[[], Tokenizer]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
UNICODE = st.text(st.characters(codec="utf-8"), max_size=40)
SPECIALS = {"bos_token": "<s>", "eos_token": "</s>", "additional_special_tokens": ["<mark>"]}
UNKNOWN = {"unk_token": "<s>"}


def byte_level() -> Tokenizer:
    """As GPT-2's: spaces trimmed from offsets, a BOS and an EOS added."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: at for at, letter in enumerate(["<s>", "</s>", *alphabet, "Ġa", "Ã©"])}
    made = Tokenizer(models.BPE(vocabulary, [("Ġ", "a"), ("Ã", "©")]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    added = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)])
    made.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=True), added])
    made.decoder = decoders.ByteLevel()
    return made


def sentencepiece() -> Tokenizer:
    """As Llama 2's: a space before every text, bytes for what the vocabulary lacks."""
    vocabulary = {token: at for at, token in enumerate(["<s>", "</s>", *BYTES, "▁", "a", "▁a", "é"])}
    made = Tokenizer(models.BPE(vocabulary, [("▁", "a")], byte_fallback=True, **UNKNOWN))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    made.decoder = decoders.Sequence(steps)
    return made


def wordpiece() -> Tokenizer:
    """As BERT's: drops characters, and decodes with spaces of its own."""
    words = {token: at for at, token in enumerate(["<s>", "</s>", "a", "##b", "b", "é"])}
    made = Tokenizer(models.WordPiece(words, **UNKNOWN))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    made.decoder = decoders.WordPiece()
    return made


def save(make: Make, folder: Path) -> Path:
    made = PreTrainedTokenizerFast(tokenizer_object=make())
    made.add_special_tokens(SPECIALS)
    made.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def qwen() -> SourceTokenizer:
    return SourceTokenizer.load(TOY / "verbalizer")


@pytest.fixture(
    scope="module",
    params=[byte_level, sentencepiece, wordpiece, None],
    ids=lambda make: getattr(make, "__name__", "toy"),
)
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> SourceTokenizer:
    folder = TOY / "verbalizer" if request.param is None else save(request.param, tmp_path_factory.mktemp("tokenizer"))
    return SourceTokenizer.load(folder)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> SourceTokenizer:
    return SourceTokenizer.load(save(sentencepiece, tmp_path_factory.mktemp("llama")))


class Spy:
    """A tokenizer that notes the lengths of the texts that it is given."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.lengths: list[int] = []

    def __call__(self, text: str, **options: Any) -> Any:
        self.lengths.append(len(text))
        return self.tokenizer(text, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tokenizer, name)


def spelled(read: Any) -> list[tuple[str, int, int]]:
    return [(token.text, token.start, token.end) for token in read.tokens]


@given(text=UNICODE, specials=st.booleans())
@example(text="e\u0301\u0323a\u0323\u0301 \u1100\u1161\u11a8", specials=True)
@example(text="<s><s> <mark>  a</s>\n", specials=True)
@example(text="\u0000a \u2028👩‍👩‍👧\U000f1234", specials=False)
def test_any_text(tokenizer: SourceTokenizer, text: str, specials: bool) -> None:
    own = tokenizer.tokenizer(text, add_special_tokens=specials)["input_ids"]
    bos = tokenizer.tokenizer.bos_token_id
    once = own[1:] if specials and bos is not None and own[:2] == [bos, bos] else own
    if not once:
        with pytest.raises(InvalidRequest, match="no token at all"):
            tokenizer.read_text(text, add_special_tokens=specials, param="texts")
        return
    read = tokenizer.read_text(text, add_special_tokens=specials, param="texts")
    assert (read.text, read.ids) == (text, once)
    check_tokens(read)


@given(data=st.data())
def test_any_ids(tokenizer: SourceTokenizer, data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.integers(0, len(tokenizer.tokenizer) - 1), min_size=1, max_size=40))
    read = tokenizer.read_ids(ids, param="token_ids")
    assert read.ids == ids
    assert read.text == tokenizer.tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    assert all(token.content and token.message is None and token.role is None for token in read.tokens)
    check_tokens(read)


@given(text=UNICODE)
def test_ids_of_a_text_are_the_text_again(qwen: SourceTokenizer, text: str) -> None:
    read = qwen.read_text(f"{text}.", add_special_tokens=True, param=None)
    again = qwen.read_ids(read.ids, param=None)
    if qwen.tokenizer.backend_tokenizer.normalizer.normalize_str(text) == text:
        assert again == read


def test_pieces_share_their_character(qwen: SourceTokenizer, llama: SourceTokenizer) -> None:
    read = qwen.read_text("日a", add_special_tokens=True, param=None)
    assert spelled(read) == [("日", 0, 1)] * 3 + [("a", 1, 2)]
    read = llama.read_text("a日", add_special_tokens=False, param=None)
    assert spelled(read) == [("a", 0, 1)] + [("日", 1, 2)] * 3
    composed = qwen.read_text("e\u0301a", add_special_tokens=True, param=None)  # the tokenizer makes one letter of it
    assert spelled(composed) == [("e\u0301", 0, 2)] * 2 + [("a", 2, 3)]


def test_broken_bytes_are_a_sign_each(qwen: SourceTokenizer, llama: SourceTokenizer) -> None:
    day = qwen.tokenizer.encode("日")
    assert spelled(qwen.read_ids([*day[:2], *qwen.tokenizer.encode("a")], param=None)) == [
        ("\ufffd", 0, 1),
        ("\ufffd", 0, 1),
        ("a", 1, 2),
    ]
    day = llama.tokenizer.encode("日", add_special_tokens=False)[-3:]
    broken = llama.read_ids([*day, day[0]], param=None)  # one that is broken breaks those beside it
    assert spelled(broken) == [("\ufffd", at, at + 1) for at in range(4)]


def test_spaces_before_words_are_theirs(tmp_path: Path) -> None:
    read = SourceTokenizer.load(save(byte_level, tmp_path)).read_text("a a", add_special_tokens=True, param=None)
    assert spelled(read) == [("<s>", 0, 0), ("a", 0, 1), (" a", 1, 3), ("</s>", 3, 3)]
    assert [token.content for token in read.tokens] == [False, True, True, False]
    assert [token.special for token in read.tokens] == [True, False, False, True]


def test_a_space_that_is_not_in_the_text_has_no_characters(llama: SourceTokenizer) -> None:
    read = llama.read_text("é a", add_special_tokens=True, param=None)
    assert spelled(read) == [("<s>", 0, 0), ("", 0, 0), ("é", 0, 1), (" a", 1, 3)]


def test_a_bos_is_put_before_none(llama: SourceTokenizer) -> None:
    read = llama.read_text("<s>a", add_special_tokens=True, param=None)
    assert read.tokens[0].content
    assert [token.id for token in read.tokens].count(0) == 1
    assert spelled(read)[0] == ("<s>", 0, 3)
    assert llama.read_text("<s><s>a", add_special_tokens=True, param=None).ids.count(0) == 2  # as it was sent


def test_as_many_tokens_as_are_taken(llama: SourceTokenizer) -> None:
    """The BOS that is not put there does not count."""
    three = replace(llama, limit=Limit(3, "shorten it"))
    for text in ("a a", "<s>a a", "a" * 2):
        assert len(three.read_text(text, add_special_tokens=True, param=None).ids) == 3
    for text in ("a a a", "<s>a a a"):
        with pytest.raises(InvalidRequest, match="the text: the text has 4 tokens; at most 3 tokens are taken: shor"):
            three.read_text(text, add_special_tokens=True, param=None)
    with pytest.raises(InvalidRequest, match="has 4 tokens"):
        three.read_ids([5] * 4, param=None)


def test_no_more_of_a_long_text_is_tokenized_than_shows_it(
    qwen: SourceTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(texts, "PART_CHARACTERS", 20)
    spy = Spy(qwen.tokenizer)
    ten = replace(qwen, tokenizer=spy, limit=Limit(10, "shorten it"))

    def read(text: str) -> list[int]:
        spy.lengths.clear()
        return ten.read_text(text, add_special_tokens=True, param="texts[1]").ids

    for text, told, lengths in (
        ("?!" * 1000, "more than 10", [20, 20]),
        ("explanation " * 6, "12", [20, 20, 20, 12, 72]),
        ("?!" * 10, "20", [20]),
    ):
        with pytest.raises(InvalidRequest, match=rf"^texts\[1\]: the text has {told} tokens; at most 10 ") as caught:
            read(text)
        assert caught.value.param == "texts[1]"
        assert spy.lengths == lengths
    assert len(read("explanation " * 5)) == 10
    assert spy.lengths == [20, 20, 20, 60]


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb"])
def test_half_a_surrogate_pair_is_refused(qwen: SourceTokenizer, text: str) -> None:
    with pytest.raises(InvalidRequest, match="half a surrogate pair") as caught:
        qwen.read_text(text, add_special_tokens=True, param="texts[3]")
    assert caught.value.param == "texts[3]"


@pytest.mark.parametrize("token", [-1, 757, 2**40])
def test_ids_that_the_tokenizer_lacks_are_refused(qwen: SourceTokenizer, token: int) -> None:
    with pytest.raises(InvalidRequest, match=f"no token {token}: its ids are 0 to 756") as caught:
        qwen.read_ids([5, token], param="token_ids[0]")
    assert caught.value.param == "token_ids[0][1]"


def test_tokens_that_the_model_lacks_are_refused(tmp_path: Path) -> None:
    """Gemma 3 of 270m has no row for the last of its tokenizer's tokens."""
    for path in (TOY / "verbalizer").glob("tokenizer*.json"):
        shutil.copy(path, tmp_path)
    for config in ({"vocab_size": 756}, {"text_config": {"vocab_size": 756}}):
        (tmp_path / "config.json").write_text(json.dumps(config))
        small = SourceTokenizer.load(tmp_path)
        with pytest.raises(
            InvalidRequest, match=r"token '<\|im_start\|>' has the id 756, but the source model has 756"
        ):
            small.read_text("a<|im_start|>", add_special_tokens=True, param="texts")


def test_a_tokenizer_without_offsets_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PreTrainedTokenizerFast, "is_fast", False)
    with pytest.raises(CheckpointError, match="needs a fast one"):
        SourceTokenizer.load(save(byte_level, tmp_path))
