"""How the pair of SmolLM2 is trained, on a tiny model in its place."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from nla_launch.demo.smollm2 import evaluate, prompts, train
from nla_launch.demo.smollm2.corpus import Document
from nla_launch.demo.smollm2.examples import FIRST, Examples, collect
from nla_launch.demo.smollm2.halves import Reconstructor, Verbalizer
from nla_launch.demo.smollm2.joining import join
from nla_launch.demo.smollm2.targets import explanation
from tests.checkpoints import FORMS, SPECIALS, make_tokenizer
from tests.reference import ReferenceReconstructor, ReferenceVerbalizer

LAYER = 1
TEXTS = ["The river rose through the night, and by morning the fields stood under water. " * 8, "one two three " * 40]


@pytest.fixture
def tokenizer(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(prompts, "MARKER", SPECIALS[FORMS["llama"].style].marker)
    return make_tokenizer("llama")


def tiny(tokenizer: Any) -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


@pytest.fixture
def examples(tokenizer: Any) -> Examples:
    documents = [Document("a story", TEXTS[0]), Document("a list", TEXTS[1])]
    return collect(tiny(tokenizer), tokenizer, documents, count=40, seed=0, layer=LAYER)


def test_an_explanation() -> None:
    told = explanation("It rained.\n  The fields stood", "a story", [" under", "under", "\n", ""])
    assert told == (
        "Read backwards from here: stood fields The rained. It\nKind of text: a story\n"
        "Likely next: under, a new line, the end"
    )  # fmt: skip


def test_documents_are_held_out_by_their_text() -> None:
    held_out = [Document("a list", f"number {k}").held_out for k in range(800)]
    assert 60 < sum(held_out) < 140
    assert Document("a story", "number 3").held_out == held_out[3]


def test_vectors_are_those_of_the_block_at_the_last_word_that_is_told(examples: Examples, tokenizer: Any) -> None:
    model, found = tiny(tokenizer), 0
    assert examples.vectors.shape == (40, 32)
    for row, before in enumerate(examples.befores.tolist()):
        words = before.split()[::-1][:8]
        assert examples.explanations[row].splitlines()[0] == f"Read backwards from here: {' '.join(words)}"
        ids = tokenizer(before, add_special_tokens=False)["input_ids"]
        if len(ids) > FIRST and len(before) < 400 and tokenizer.decode(ids) == before:
            state = model(torch.tensor([ids]), output_hidden_states=True).hidden_states[LAYER + 1][0, -1]
            found += np.allclose(state.detach(), examples.vectors[row], atol=1e-4)
    assert found > 3  # text that was cut within a token has other ids


def test_training_that_is_ended_goes_on_as_if_nothing_was(examples: Examples, tokenizer: Any, tmp_path: Path) -> None:
    def trained(folder: Path, *ends: int) -> dict[str, torch.Tensor]:
        folder.mkdir()
        for end in ends:
            half = Verbalizer(tiny(tokenizer), tokenizer)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(train, "KEPT_EVERY_S", 0.0)
                patch.setattr(train, "_share", lambda step, steps: 1.0)
                train.fit(half, examples, end, folder / "half.pt", seed=0)
        return {name: value for name, value in half.named_parameters() if value.requires_grad}

    torch.manual_seed(1)
    state = torch.get_rng_state()
    at_once = trained(tmp_path / "one", 4)
    torch.set_rng_state(state)
    in_two = trained(tmp_path / "two", 2, 4)
    assert any(value.abs().max() > 0 for name, value in at_once.items() if "lora_B" in name)
    for name, value in at_once.items():
        assert torch.equal(value, in_two[name])


def test_both_halves_learn_and_are_saved(examples: Examples, tokenizer: Any, tmp_path: Path) -> None:
    reconstructor = Reconstructor(tiny(tokenizer), tokenizer, LAYER)
    begun = reconstructor.loss(examples).item()
    reconstructor.begin(examples)
    regressed = reconstructor.loss(examples).item()
    train.fit(reconstructor, examples, 20, tmp_path / "reconstructor.pt", seed=0)
    assert begun > regressed > reconstructor.loss(examples).item()
    verbalizer = Verbalizer(tiny(tokenizer), tokenizer)
    before = verbalizer.loss(examples).item()
    train.fit(verbalizer, examples, 20, tmp_path / "verbalizer.pt", seed=0)
    assert verbalizer.loss(examples).item() < before
    table = evaluate.report(verbalizer, reconstructor, examples)
    assert "| vectors | 40 |" in table


def test_joined_they_are_a_pair_that_says_and_rebuilds_the_same(
    examples: Examples, tokenizer: Any, tmp_path: Path
) -> None:
    verbalizer, reconstructor = Verbalizer(tiny(tokenizer), tokenizer), Reconstructor(tiny(tokenizer), tokenizer, LAYER)
    for half, name in ((verbalizer, "verbalizer"), (reconstructor, "reconstructor")):
        train.fit(half, examples, 3, tmp_path / f"{name}.pt", seed=0)
        half.save(tmp_path / "trained" / name)
    join(tiny(tokenizer), tokenizer, tmp_path / "trained", tmp_path / "pair", layer=LAYER)
    served = ReferenceReconstructor(tmp_path / "pair/reconstructor")
    texts = ["a text", "another of more words"]
    for text, row in zip(texts, reconstructor.rebuild(texts), strict=True):
        assert np.abs(served.vector(text) - row).max() < 0.05  # rounded to bfloat16
    reference = ReferenceVerbalizer(tmp_path / "pair/verbalizer")
    with torch.no_grad():
        ours = verbalizer.model(inputs_embeds=reference.embeds(examples.vectors[0])).logits[0, -1]
        theirs = reference.model(inputs_embeds=reference.embeds(examples.vectors[0])).logits[0, -1]
    assert (ours - theirs).abs().max() < 0.05
    base = LlamaForCausalLM.from_pretrained(tmp_path / "pair/base", dtype=torch.float32)
    for name, value in tiny(tokenizer).state_dict().items():
        assert torch.equal(base.state_dict()[name], value.to(torch.bfloat16).float())


def test_figures() -> None:
    wanted = np.random.default_rng(0).standard_normal((80, 16)).astype(np.float32)
    assert evaluate.fve(wanted, wanted) == 1
    assert evaluate.fve(np.repeat(wanted.mean(axis=0)[None], 80, axis=0), wanted) == pytest.approx(0, abs=1e-5)
    assert evaluate.top1(wanted, wanted) == 1
    assert evaluate.top1(np.roll(wanted, 1, axis=0), wanted) < 0.3
