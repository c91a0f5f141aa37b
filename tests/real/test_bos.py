"""The check of the BOS on real tokenizers: once before all, before every turn, twice, never, or none at all."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from nla_gateway.errors import CheckpointError
from nla_gateway.pair.prompt import _check_bos, load_tokenizer
from tests.checkpoints import edit_sidecar
from tests.real.conftest import Needed
from tests.real.fetch import TOKENIZERS
from tests.real.models import MODELS, Pair, pair_of
from tests.real.released import (
    AR_TEMPLATE,
    GEMMA,
    LLAMA,
    QWEN,
    Ids,
    bare_checkpoint,
    reconstructor_prompt,
    verbalizer_prompt,
)

TWICE: Final = "begins with more than one BOS"
GEMINI: Final = Ids("㈜", 251779, 235313, 727, (1082, 235313, 968, 2436, 235313))
LLAMA2: Final = Ids("号", 29170, 28767, 700, (772, 28767, 523, 3499, 28767))


@dataclass(frozen=True)
class Real:
    model_type: str
    ids: Ids
    beginning: str | None
    """What of the chat template writes the BOS; None: the tokenizer has none."""


REAL: Final = {
    "qwen2_5": Real("qwen2", QWEN, None),
    "qwen3": Real("qwen3", QWEN, None),
    "gemma3": Real("gemma3_text", GEMMA, "{{ bos_token }}"),
    "gemini": Real("gemma", GEMINI, "{{ bos_token }}"),
    "llama3_1": Real("llama", LLAMA, "{% set content = bos_token + content %}"),
}
WITH_BOS: Final = [name for name, real in REAL.items() if real.beginning]
FEW: Final = ("gemini", "llama3_1")
"""For what is the same with all; the larger one takes seconds to load."""
LLAMA2_CHAT: Final = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + m['content'].strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'].strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
"""The release's, without its ways with a system message: every turn of the user begins with the BOS."""


def folder_of(name: str, needed: Needed, parent: Path, role: str = "av") -> Path:
    real = REAL[name]
    return bare_checkpoint(parent / role, needed(TOKENIZERS[name]), real.model_type, real.ids, role)


def change_chat(folder: Path, old: str, new: str) -> None:
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    assert old in config["chat_template"]
    path.unlink()  # a link to the one that was fetched
    path.write_text(json.dumps(config | {"chat_template": config["chat_template"].replace(old, new)}))


@pytest.fixture
def smollm2(needed: Needed, tmp_path: Path) -> Pair:
    """Its BOS begins every message, and nothing adds one to a text. Folders without weights."""
    model = MODELS["smollm2-135m"]
    for source in model.sources:
        needed(source)
    pair, copy = pair_of(model), Pair(tmp_path / "av", tmp_path / "ar", model)
    for original, folder in ((pair.av, copy.av), (pair.ar, copy.ar)):
        shutil.copytree(original, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    return copy


@pytest.mark.parametrize("name", ["qwen3", "gemini"])
def test_released_templates_are_right(
    name: str, needed: Needed, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    av = verbalizer_prompt(folder_of(name, needed, tmp_path))
    ar = reconstructor_prompt(folder_of(name, needed, tmp_path, "ar"))
    bos = ar.tokenizer.bos_token_id
    for ids in (av.ids, ar.encode("cats")):
        assert [at for at, token in enumerate(ids) if token == bos] == ([0] if name in WITH_BOS else [])
    assert caplog.text == ""  # the other three: test_tokenizers.py


def test_a_bos_before_every_turn_is_right(smollm2: Pair, caplog: pytest.LogCaptureFixture) -> None:
    av, ar = verbalizer_prompt(smollm2.av), reconstructor_prompt(smollm2.ar)
    assert ar.tokenizer.bos_token_id == ar.tokenizer.convert_tokens_to_ids("<|im_start|>")
    assert av.ids.count(ar.tokenizer.bos_token_id) == 3  # the system's, the user's and the assistant's
    assert ar.tokenizer.bos_token_id not in ar.encode("cats")
    assert caplog.text == ""


def test_llama2_begins_the_users_turns_with_it(needed: Needed, tmp_path: Path) -> None:
    """Its tokenizer puts a space before a text, so that no marker is one token: the check alone can be asked."""
    folder = bare_checkpoint(tmp_path / "av", needed(TOKENIZERS["llama2"]), "llama", LLAMA2)
    tokenizer = load_tokenizer(folder, trust_remote_code=False)
    tokenizer.chat_template = LLAMA2_CHAT
    roles = ("user", "assistant", "user")
    text = tokenizer.apply_chat_template([{"role": role, "content": "cats"} for role in roles], tokenize=False)
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert ids.count(tokenizer.bos_token_id) == 2
    assert _check_bos(tokenizer, ids, folder) is False
    with pytest.raises(CheckpointError, match=TWICE):
        _check_bos(tokenizer, tokenizer.encode(text), folder)
    with pytest.raises(CheckpointError, match="encodes to"):
        verbalizer_prompt(folder)


def test_llama2_gives_texts_one(needed: Needed, tmp_path: Path) -> None:
    folder = bare_checkpoint(tmp_path / "ar", needed(TOKENIZERS["llama2"]), "llama", LLAMA2, "ar")
    ids = reconstructor_prompt(folder).encode("cats")
    assert (ids[0], ids.count(1)) == (1, 1)


@pytest.mark.parametrize("name", WITH_BOS)
def test_two_at_the_beginning_of_a_chat_are_refused(name: str, needed: Needed, tmp_path: Path) -> None:
    folder, beginning = folder_of(name, needed, tmp_path), str(REAL[name].beginning)
    change_chat(folder, beginning, beginning.replace("bos_token", "bos_token + bos_token"))
    with pytest.raises(CheckpointError, match=TWICE):
        verbalizer_prompt(folder)


def test_two_before_the_first_turn_are_refused(smollm2: Pair) -> None:
    path = smollm2.av / "chat_template.jinja"
    path.write_text("{{ bos_token }}" + path.read_text())
    with pytest.raises(CheckpointError, match=TWICE):
        verbalizer_prompt(smollm2.av)


@pytest.mark.parametrize("name", FEW)
def test_two_before_a_text_are_refused(name: str, needed: Needed, tmp_path: Path) -> None:
    folder = folder_of(name, needed, tmp_path, "ar")
    bos = load_tokenizer(folder, trust_remote_code=False).bos_token
    edit_sidecar(folder, {"prompt_templates.ar": bos + AR_TEMPLATE})
    with pytest.raises(CheckpointError, match=TWICE):
        reconstructor_prompt(folder)


@pytest.mark.parametrize("name", FEW)
def test_a_lost_one_is_warned_of(name: str, needed: Needed, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder, beginning = folder_of(name, needed, tmp_path), str(REAL[name].beginning)
    change_chat(folder, beginning, beginning.replace("bos_token", "''"))
    verbalizer_prompt(folder)
    assert "renders no BOS" in caplog.text
