"""The demo's prompts, on the model's own tokenizer."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from nla_gateway.roles import Role
from nla_launch.demo.prompts import AR_TEMPLATE, marker_id, verbalizer_ids, write_sidecar
from tests.real.conftest import Needed
from tests.real.models import MODELS
from tests.reference import read


@pytest.mark.parametrize("role", [Role.AV, Role.AR])
def test_the_sidecars_ids_are_those_of_its_tokenizer(needed: Needed, role: Role, tmp_path: Path) -> None:
    model = MODELS["smollm2-135m"]
    (gguf,) = needed(model.weights).glob("*.gguf")
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    ids, marker = verbalizer_ids(tokenizer), marker_id(tokenizer)
    assert (marker, ids.count(marker)) == (model.ids.marker_id, 1)
    at = ids.index(marker)
    assert (ids[at - 1], ids[at + 1]) == (model.ids.left, model.ids.right)
    write_sidecar(tmp_path, role, tokenizer, d_model=576, layer=20)
    assert read(tmp_path)["tokens"]["critic_suffix_ids"] == []  # the prompt ends as the text does
    words = tokenizer("Some words.")["input_ids"]
    assert tokenizer(AR_TEMPLATE.format(explanation="Some words."))["input_ids"][-len(words) :] == words
    assert read(tmp_path)["tokens"]["injection_token_id"] == marker
