"""How the pair of SmolLM2 is trained, on a tiny model in its place."""

from functools import partial
from pathlib import Path
from string import ascii_letters
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from nla_launch.demo import evaluate, prompts, train
from nla_launch.demo.corpus import GENERATED, Document, documents
from nla_launch.demo.examples import SHOWN, Examples, collect
from nla_launch.demo.halves import Reconstructor, Verbalizer
from nla_launch.demo.joining import join
from nla_launch.demo.targets import explanation, last_word
from tests.adapters import lively
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
        tie_word_embeddings=True, initializer_range=0.2,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


@pytest.fixture
def examples(tokenizer: Any) -> Examples:
    documents = [Document("a story", TEXTS[0]), Document("a list", TEXTS[1])]
    return collect(tiny(tokenizer), tokenizer, documents, count=40, seed=0, layer=LAYER)


def test_an_explanation() -> None:
    told = explanation("It rained.\n  The fields stood", "a story", [" under", "under", "\n", ""])
    assert told == (
        "Kind of text: a story\nLikely next: under, a new line, the end\nLast word: stood\n"
        "Just read: ¶ The fields stood"
    )  # fmt: skip
    assert last_word(told) == "stood"


def test_documents_are_held_out_by_their_text() -> None:
    held_out = [Document("a list", f"number {k}").held_out for k in range(800)]
    assert 60 < sum(held_out) < 140
    assert Document("a story", "number 3").held_out == held_out[3]


def test_vectors_are_those_of_the_block_at_the_last_word_that_is_told(examples: Examples, tokenizer: Any) -> None:
    model, looked_at, right = tiny(tokenizer), 0, 0
    assert examples.vectors.shape == (40, 32)
    for row, before in enumerate(examples.contexts.tolist()):
        words = before.split()[-4:]
        assert examples.explanations[row].splitlines()[3] == f"Just read: {' '.join(words)}"
        ids = tokenizer(before, add_special_tokens=False)["input_ids"]
        if len(before) < SHOWN:
            read = model(torch.tensor([ids]), output_hidden_states=True)
            looked_at += 1
            if np.allclose(read.hidden_states[LAYER + 1][0, -1].detach(), examples.vectors[row], atol=1e-4):
                right += 1
                (likeliest,) = read.logits[0, -1].topk(1).indices.tolist()
                told = examples.explanations[row].splitlines()[1]
                assert tokenizer.decode([likeliest], skip_special_tokens=True).strip() in told
    assert looked_at > 10
    assert right > looked_at * 0.8  # a text that was cut within a word may have other ids


def test_explanations_hold_no_special_tokens(tokenizer: Any) -> None:
    model, end = tiny(tokenizer), tokenizer.eos_token_id
    with torch.no_grad():
        model.model.embed_tokens.weight[end] *= 20  # tied: it is likely to come next
    documents = [Document("a story", TEXTS[0])]
    told = collect(model, tokenizer, documents, count=40, seed=0, layer=LAYER).explanations.tolist()
    assert any("the end" in text for text in told)
    for text in told:
        assert not set(tokenizer(text, add_special_tokens=False)["input_ids"]) & set(tokenizer.all_special_ids)


def test_the_loss_is_that_of_the_whole_prompt(examples: Examples, tokenizer: Any) -> None:
    half, some = Verbalizer(tiny(tokenizer), tokenizer), examples[:3]
    lively(half.model)
    half.loss(some).backward()
    found = {name: value.grad.clone() for name, value in half.named_parameters() if value.grad is not None}
    half.zero_grad()
    total, count = torch.tensor(0.0), 0
    for vector, text in zip(some.vectors, some.explanations.tolist(), strict=True):
        answer = f"<explanation>{text}</explanation>{tokenizer.eos_token}"
        targets = torch.tensor(tokenizer(answer, add_special_tokens=False)["input_ids"])
        ids = torch.cat([half.prompt, targets])
        embeds = half.model.get_input_embeddings()(ids)[None].clone()
        embeds[0, half.place] = torch.from_numpy(vector) * prompts.INJECTION_SCALE / np.linalg.norm(vector)
        logits = half.model(inputs_embeds=embeds).logits[0, len(half.prompt) - 1 : -1]
        total, count = total + nn.functional.cross_entropy(logits, targets, reduction="sum"), count + len(targets)
    whole = total / count
    assert half.loss(some).item() == pytest.approx(whole.item(), rel=1e-4)
    whole.backward()
    for name, gradient in found.items():
        wanted = half.get_parameter(name).grad
        assert wanted is not None
        assert torch.allclose(gradient, wanted, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", [Verbalizer, Reconstructor])
def test_training_that_is_ended_goes_on_as_if_nothing_was(
    kind: type[Verbalizer | Reconstructor], examples: Examples, tokenizer: Any, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(train, "_share", lambda step, steps: 1.0)

    def made() -> Verbalizer | Reconstructor:
        torch.manual_seed(1)
        if kind is Verbalizer:
            return Verbalizer(tiny(tokenizer), tokenizer)
        return Reconstructor(tiny(tokenizer), tokenizer, LAYER)

    at_once, in_two, begun = made(), made(), made()
    train.fit(at_once, examples, 4, tmp_path / "one.pt", seed=0)
    train.fit(begun, examples, 2, tmp_path / "two.pt", seed=0)
    train.fit(in_two, examples, 4, tmp_path / "two.pt", seed=0)
    for name, value in at_once.named_parameters():
        if value.requires_grad:
            assert not torch.equal(value, begun.get_parameter(name))
            assert torch.equal(value, in_two.get_parameter(name))


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
    table = evaluate.report(verbalizer.say, reconstructor.rebuild, examples)
    assert "| vectors | 40 |" in table


def test_training_begins_with_what_was_saved(examples: Examples, tokenizer: Any, tmp_path: Path) -> None:
    """Weights in bfloat16 are what is kept, so that they come back as they were."""
    halves: list[tuple[type[Reconstructor | Verbalizer], str, tuple[Any, ...]]]
    halves = [(Reconstructor, "reconstructor", (LAYER,)), (Verbalizer, "verbalizer", ())]
    for kind, name, more in halves:
        first, second = (kind(tiny(tokenizer), tokenizer, *more) for _ in range(2))
        train.fit(first, examples, 2, tmp_path / f"{name}.pt", seed=0)
        first.save(tmp_path / name)
        second.load(tmp_path / name)
        for learned, value in first.named_parameters():
            if value.requires_grad:
                assert torch.equal(value.bfloat16().float(), second.get_parameter(learned)), learned
        assert second.loss(examples).item() == pytest.approx(first.loss(examples).item(), rel=1e-2)


def test_an_adapter_of_another_model_is_refused(tokenizer: Any, tmp_path: Path) -> None:
    Verbalizer(tiny(tokenizer), tokenizer).save(tmp_path)
    state = load_file(tmp_path / "adapter_model.safetensors")
    save_file({name.replace("layers.0", "layers.9"): value for name, value in state.items()},
              tmp_path / "adapter_model.safetensors")  # fmt: skip
    with pytest.raises(ValueError, match="is an adapter of another model"):
        Verbalizer(tiny(tokenizer), tokenizer).load(tmp_path)


def test_joined_they_are_a_pair_that_says_and_rebuilds_the_same(
    examples: Examples, tokenizer: Any, tmp_path: Path
) -> None:
    verbalizer, reconstructor = Verbalizer(tiny(tokenizer), tokenizer), Reconstructor(tiny(tokenizer), tokenizer, LAYER)
    for half, name in ((verbalizer, "verbalizer"), (reconstructor, "reconstructor")):
        lively(half.model)
        half.save(tmp_path / "trained" / name)
    model = tiny(tokenizer)
    join(model, tokenizer, tmp_path / "trained", tmp_path / "pair", layer=LAYER)
    base = LlamaForCausalLM.from_pretrained(tmp_path / "pair/base", dtype=torch.float32)
    for name, value in tiny(tokenizer).state_dict().items():
        assert torch.equal(base.state_dict()[name], value.to(torch.bfloat16).float())
        assert torch.equal(model.state_dict()[name], value)
    texts = ["a text", "another of more words"]
    served, alone = (ReferenceReconstructor(tmp_path / "pair/reconstructor") for _ in range(2))
    alone.model.load_state_dict(base.model.state_dict(), strict=False)
    for text, row in zip(texts, reconstructor.rebuild(texts), strict=True):
        assert far(served.vector(text), row) < 0.15  # rounded to bfloat16
        assert far(alone.vector(text), row) > 0.5
    reference = ReferenceVerbalizer(tmp_path / "pair/verbalizer")
    embeds = reference.embeds(examples.vectors[0])
    with torch.no_grad():
        models = (reference.model, verbalizer.model, base)
        said, wanted, unmerged = (model(inputs_embeds=embeds).logits[0, -1].numpy() for model in models)
    assert far(said, wanted) < 0.15
    assert far(unmerged, wanted) > 0.5


def far(found: NDArray[np.float32], wanted: NDArray[np.float32]) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def test_documents_that_are_missing_are_told(tmp_path: Path) -> None:
    (tmp_path / GENERATED).write_text("")
    with pytest.raises(FileNotFoundError, match=r"no text of these kinds: a dictionary, a novel, a speech$"):
        documents(tmp_path)


def test_examples_held_out_are_of_other_documents(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [Document("a story", f"{letter} " * 200) for letter in ascii_letters]
    monkeypatch.setattr(train, "load_model", lambda dtype: tiny(tokenizer).to(dtype))
    monkeypatch.setattr(train, "documents", lambda folder: found)
    monkeypatch.setattr(train, "HELD_OUT", 24)
    monkeypatch.setattr(train, "collect", partial(collect, layer=LAYER))
    halves = train.read(tmp_path, tmp_path, tokenizer, 48)
    assert [len(half) for half in halves] == [48, 24]
    of_training, of_held_out = (set("".join(half.contexts.tolist())) - {" "} for half in halves)
    assert min(len(of_training), len(of_held_out)) > 2
    assert not of_training & of_held_out
    with pytest.raises(ValueError, match="has 48 examples, not 50"):
        train.read(tmp_path, tmp_path, tokenizer, 50)


def test_figures() -> None:
    wanted = np.random.default_rng(0).standard_normal((80, 16)).astype(np.float32)
    assert evaluate.fve(wanted, wanted) == 1
    assert evaluate.fve(np.repeat(wanted.mean(axis=0)[None], 80, axis=0), wanted) == pytest.approx(0, abs=1e-5)
    assert evaluate.top1(wanted, wanted) == 1
    assert evaluate.top1(np.roll(wanted, 1, axis=0), wanted) < 0.3
