"""Prompts of the released pairs on the tokenizers that they were made with, and Qwen3's."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final
from unicodedata import normalize

import pytest
import yaml

from nla_gateway.errors import CheckpointError
from nla_gateway.pair.parsing import THINK, Form
from nla_gateway.pair.prompt import ReconstructorPrompt, load_tokenizer
from nla_launch.pair.preset import load_preset
from nla_launch.pair.rules import Rules, VerbalizerRules
from tests.real.conftest import Needed
from tests.real.fetch import TOKENIZERS
from tests.real.released import (
    AR_TEMPLATE,
    AV_TEMPLATE,
    GEMMA,
    LLAMA,
    QWEN,
    Ids,
    bare_checkpoint,
    reconstructor_prompt,
    verbalizer_prompt,
)

EXPLANATIONS: Final = (
    "",
    "A plain sentence.",
    "👩‍👩‍👧 and 🇫🇷, then 🙂",
    "🙂",
    "关于数据库的文字。",
    "a < b, and b <",
    "<",
    "</",
    "</text>",
    "</text> <summary>",
    "<explanation>cats</explanation>",
    "first\n\nsecond\n",
    "\n",
    "ends with a space ",
    "\ttabs\r\nand\u00a0more\u2028",
    "㈎㈜㎡",
    "naïve e\u0301 ẞ",
    "12345678901234567890",
)


@dataclass(frozen=True)
class Told:
    """What is to come of a released prompt."""

    tokenizer: str
    model_type: str
    ids: Ids
    tokens: int
    position: int
    ends: str
    """What the chat template puts behind the user's message."""
    bos: str | None


CASES: Final = {
    case.tokenizer: case
    for case in (
        Told("qwen2_5", "qwen2", QWEN, 125, 111, "<|im_end|>\n<|im_start|>assistant\n", None),
        Told("gemma3", "gemma3_text", GEMMA, 108, 93, "<end_of_turn>\n<start_of_turn>model\n", "<bos>"),
        Told(
            "llama3_1", "llama", LLAMA, 106, 92,
            "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n", "<|begin_of_text|>",
        ),
    )
}  # fmt: skip


@pytest.fixture(scope="module", params=CASES)
def told(request: pytest.FixtureRequest, needed: Needed) -> Told:
    needed(TOKENIZERS[request.param])
    return CASES[request.param]


@pytest.fixture(scope="module")
def av(told: Told, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(told.tokenizer) / "verbalizer"
    return bare_checkpoint(folder, TOKENIZERS[told.tokenizer].folder, told.model_type, told.ids)


@pytest.fixture(scope="module")
def ar(told: Told, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(told.tokenizer) / "reconstructor"
    return bare_checkpoint(folder, TOKENIZERS[told.tokenizer].folder, told.model_type, told.ids, "ar")


@pytest.fixture(scope="module")
def ar_prompt(ar: Path) -> ReconstructorPrompt:
    return reconstructor_prompt(ar)


def test_the_verbalizers_prompt_is_the_released_one(
    told: Told, av: Path, ar_prompt: ReconstructorPrompt, caplog: pytest.LogCaptureFixture
) -> None:
    prompt, ids, tokenizer = verbalizer_prompt(av), told.ids, ar_prompt.tokenizer
    assert caplog.text == ""  # nor transformers' false alarm of a regex pattern
    assert (len(prompt.ids), prompt.position) == (told.tokens, told.position)
    assert prompt.ids[prompt.position - 1 : prompt.position + 2] == [ids.left, ids.marker_id, ids.right]
    assert prompt.ids.count(ids.marker_id) == 1
    rendered = tokenizer.decode(prompt.ids)
    assert rendered.endswith(AV_TEMPLATE.format(injection_char=ids.marker) + told.ends)
    bos = tokenizer.bos_token_id
    assert [at for at, token in enumerate(prompt.ids) if token == bos] == ([0] if told.bos else [])
    assert tokenizer.bos_token == told.bos
    assert prompt.stop_texts[tokenizer.eos_token_id] == told.ends[: len(tokenizer.eos_token)]
    assert prompt.form == Form()


@pytest.mark.parametrize("text", EXPLANATIONS)
def test_explanations_keep_the_suffix(told: Told, ar_prompt: ReconstructorPrompt, text: str) -> None:
    ids = ar_prompt.encode_checked(text, 400, "texts")
    assert ids[-5:] == list(told.ids.suffix)
    tokenizer = ar_prompt.tokenizer
    whole = (told.bos or "") + AR_TEMPLATE.format(explanation=text)
    assert normalize("NFC", tokenizer.decode(ids)) == normalize("NFC", whole)  # which Qwen's does by itself
    assert ids.count(tokenizer.bos_token_id) == (1 if told.bos else 0)


def test_another_familys_sidecar_is_refused(told: Told, av: Path, tmp_path: Path) -> None:
    other = next(case.ids for case in CASES.values() if case.ids != told.ids)
    folder = bare_checkpoint(tmp_path / "mixed", TOKENIZERS[told.tokenizer].folder, told.model_type, other)
    with pytest.raises(CheckpointError, match="encodes to"):
        verbalizer_prompt(folder)


THINKING: Final = {
    None: "<|im_start|>assistant\n",
    True: "<|im_start|>assistant\n",
    False: "<|im_start|>assistant\n<think>\n\n</think>\n\n",
}
"""What stands at the end of Qwen3's prompt, by `enable_thinking`. Where it may think, its first word opens the tag."""


@pytest.mark.parametrize("enable_thinking", THINKING)
def test_qwen3_with_and_without_thinking(needed: Needed, tmp_path: Path, enable_thinking: bool | None) -> None:
    folder = bare_checkpoint(tmp_path / "verbalizer", needed(TOKENIZERS["qwen3"]), "qwen3", QWEN)
    stated = {} if enable_thinking is None else {"verbalizer": {"enable_thinking": enable_thinking}}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({"name": "own", "av": str(folder), "ar": None, **stated}))
    prompt = verbalizer_prompt(folder, load_preset(str(tmp_path / "own.yaml")))
    tokenizer, ends = load_tokenizer(folder, trust_remote_code=False), THINKING[enable_thinking]
    user = "<|im_start|>user\n" + AV_TEMPLATE.format(injection_char=QWEN.marker) + "<|im_end|>\n"
    assert tokenizer.decode(prompt.ids) == user + ends
    # Qwen2.5's template puts a message of the system before the user's, of 21 tokens; Qwen3's none.
    without = 125 - 21
    nothing_thought = [151667, 271, 151668, 271]  # <think>, two line ends, </think>, two line ends
    assert prompt.ids[without:] == ([] if enable_thinking is not False else nothing_thought)
    assert prompt.ids[without - 3 : without] == tokenizer.encode("<|im_start|>assistant\n")
    assert prompt.ids[prompt.position - 1 : prompt.position + 2] == [QWEN.left, QWEN.marker_id, QWEN.right]
    assert (prompt.position, prompt.ids.count(QWEN.marker_id)) == (111 - 21, 1)
    assert prompt.form == Form(may_think=None if enable_thinking is False else THINK)


def test_a_template_that_knows_no_thinking(told: Told, av: Path) -> None:
    with pytest.raises(CheckpointError, match="the chat template knows no enable_thinking"):
        verbalizer_prompt(av, Rules(verbalizer=VerbalizerRules(enable_thinking=False)))
