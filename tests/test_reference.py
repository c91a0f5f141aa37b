"""The fixtures mean something: vectors matter, prompts are as described, a norm left in place would show."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.checkpoints import D_MODEL, SPECIALS, Family, make_pair
from tests.reference import ReferenceReconstructor, ReferenceVerbalizer

FAMILIES = sorted(SPECIALS)
NASTY = ("ends with >", "shouts!", "line\n", "日本", "</text>", "'", "")


@pytest.mark.parametrize("family", FAMILIES)
def test_vectors_decide_the_text(tmp_path: Path, family: Family) -> None:
    reference = ReferenceVerbalizer(make_pair(tmp_path, family).av)
    vectors = np.random.default_rng(0).standard_normal((4, D_MODEL)).astype(np.float32)
    texts = {tuple(reference.greedy(vector, 24)) for vector in [*vectors, None]}
    assert len(texts) == 5
    assert all(len(set(text)) > 2 for text in texts)


@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_are_as_the_sidecar_says(tmp_path: Path, family: Family) -> None:
    pair = make_pair(tmp_path, family)
    verbalizer, reconstructor = ReferenceVerbalizer(pair.av), ReferenceReconstructor(pair.ar)
    bos = 1 if SPECIALS[family].bos else 0
    assert verbalizer.prompt_ids().count(verbalizer.tokenizer.bos_token_id) == bos
    suffix = verbalizer.sidecar["tokens"]["critic_suffix_ids"]
    for text in NASTY:
        ids = reconstructor.tokenizer(reconstructor.template.replace("{explanation}", text))["input_ids"]
        assert ids[-len(suffix) :] == suffix
        assert ids.count(verbalizer.tokenizer.bos_token_id) == bos


@pytest.mark.parametrize("family", FAMILIES)
def test_a_final_norm_left_in_place_shows_in_the_magnitude(tmp_path: Path, family: Family) -> None:
    reference = ReferenceReconstructor(make_pair(tmp_path, family).ar)
    without = reference.vector("a text")
    reference.model.norm = reference.final_norm
    assert np.linalg.norm(reference.vector("a text") - without) > 0.2 * np.linalg.norm(without)


def test_sharded_weights_are_the_same(tmp_path: Path) -> None:
    one = ReferenceVerbalizer(make_pair(tmp_path / "one", "llama").av)
    many = make_pair(tmp_path / "many", "llama", sharded=True)
    assert (many.av / "model.safetensors.index.json").is_file()
    assert (many.ar / "model.safetensors.index.json").is_file()
    states = one.model.state_dict(), ReferenceVerbalizer(many.av).model.state_dict()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
