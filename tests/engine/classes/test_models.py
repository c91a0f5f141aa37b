"""Our classes on a model as small as can be; that they go with SGLang's is shown by the end-to-end tests."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from nla_engine.checkpoint import Checkpoint, Injection, ValueHead
from nla_engine.classes.decoder import unwrapped
from nla_engine.classes.reconstructor import load_head
from nla_engine.classes.registry import MIXINS
from nla_engine.classes.source import rows_of
from nla_engine.classes.truncated import CloseResidual
from nla_engine.classes.verbalizer import added
from tests.warm import run_program

BLOCKS = 3
SIZE = 4


@pytest.fixture(autouse=True)
def _the_same_draws() -> None:
    """Of weights and vectors, each time: a rare draw may round beyond what is allowed."""
    torch.manual_seed(0)


class Block(nn.Module):
    """Adds its number to what is in its input."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def forward(self, positions: object, hidden_states: torch.Tensor, forward_batch: object) -> torch.Tensor:
        return hidden_states + self.number


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(10, SIZE)
        self.layers = nn.ModuleList(Block(number) for number in range(BLOCKS))
        self.norm = nn.LayerNorm(SIZE)

    def forward(self, input_ids: torch.Tensor, positions: object, forward_batch: object) -> torch.Tensor:
        hidden: torch.Tensor = self.embed_tokens(input_ids)
        for layer in self.layers:
            hidden = layer(positions, hidden, forward_batch)
        return hidden


class Stock(nn.Module):
    def __init__(self, config: Any, quant_config: object, prefix: str) -> None:
        super().__init__()
        self.model = Inner()
        self.lm_head = nn.Linear(SIZE, 10)
        self.loaded: list[str] = []

    @torch.no_grad()
    def forward(self, input_ids: torch.Tensor, positions: object, forward_batch: object) -> torch.Tensor:
        answer: torch.Tensor = self.model(input_ids, positions, forward_batch)
        return answer

    def load_weights(self, weights: Any) -> None:
        self.loaded += [name for name, _ in weights]


def make(role: str, stock: type = Stock, config: Any = None, **told: Any) -> Any:
    checkpoint = Checkpoint(architecture="Stock", **told)
    model = type("Stock", (MIXINS[role], stock), {"nla_checkpoint": checkpoint})
    return model(config or SimpleNamespace(hidden_size=SIZE))


def batch(vectors: torch.Tensor | None, *rows: int) -> Any:
    return SimpleNamespace(replace_embeds=vectors, replace_positions=torch.tensor(rows), residual_stream=None)


IDS = torch.arange(6)


def test_a_vector_stands_for_an_embedding() -> None:
    model = make("av")
    plain, vectors = model(IDS, None, batch(None)), torch.randn(2, SIZE)
    changed = model(IDS, None, batch(vectors, 1, 4), torch.full((6, SIZE), torch.nan))
    others = [0, 2, 3, 5]
    assert torch.equal(changed[others], plain[others])
    torch.testing.assert_close(changed[[1, 4]], vectors + sum(range(BLOCKS)))
    assert torch.equal(model(IDS, None, batch(None)), plain)


@pytest.mark.parametrize("block", [0, 1, 2])
def test_a_vector_is_added_after_a_block(block: int) -> None:
    model = make("av", injection=Injection(rule="add_after_block", block=block))
    plain, vector = model(IDS, None, batch(None)), torch.randn(1, SIZE)
    changed = model(IDS, None, batch(vector, 3))
    later = sum(range(block + 1, BLOCKS))
    row = plain[3] - later
    torch.testing.assert_close(changed[3], row + row.norm() * vector[0] / vector.norm() + later)
    assert torch.equal(changed[:3], plain[:3])


def test_large_vectors_do_not_overflow() -> None:
    row, vector = torch.randn(1, SIZE), torch.randn(1, SIZE)
    wanted = row + row.norm() * vector / vector.norm()
    torch.testing.assert_close(added(row, vector * 1e36), wanted)
    torch.testing.assert_close(added(row, vector * 1e-30), wanted)


def test_there_is_no_such_block() -> None:
    with pytest.raises(ValueError, match="no vector can be added after block 3: there are 3"):
        make("av", injection=Injection(rule="add_after_block", block=3))


@pytest.mark.parametrize("final_norm", [False, True])
def test_a_reconstructor_has_the_first_blocks_alone(final_norm: bool) -> None:
    head = ValueHead(file=Path("x"), weight="value_head.weight")
    model = make("ar", blocks=BLOCKS, final_norm=final_norm)
    assert not hasattr(model, "lm_head")
    assert isinstance(model.model.norm, CloseResidual) is not final_norm
    unwanted = ["lm_head.weight", "model.layers.3.x.weight", "model.layers.10.x.weight", "weight", "bias"]
    wanted = ["model.embed_tokens.weight", "model.layers.0.mlp.experts.7.w", "model.layers.2.x.weight"]
    (wanted if final_norm else unwanted).append("model.norm.weight")
    model.load_weights((name, torch.zeros(1)) for name in [*unwanted, *wanted])
    assert model.loaded == wanted
    with pytest.raises(ValueError, match="the model has 3 blocks, and 2 are to be served"):
        make("ar", blocks=2, value_head=head)


def test_a_source_is_read_at_positions() -> None:
    model = make("source", blocks=BLOCKS)
    wanted = [torch.tensor([0, 2]), torch.tensor([1])]
    batch = SimpleNamespace(
        token_indices_to_pool=wanted, extend_seq_lens=torch.tensor([4, 2]), extend_seq_lens_cpu=[4, 2]
    )
    first, second = model.nla_rows(IDS, torch.arange(6), batch)
    blocks = model.model.embed_tokens.weight[:6] + sum(range(BLOCKS))
    torch.testing.assert_close(first, blocks[[0, 2]])
    torch.testing.assert_close(second, blocks[[5]])
    batch.token_indices_to_pool = None
    last = model.nla_rows(IDS, torch.arange(6), batch)
    assert [len(rows) for rows in last] == [1, 1]
    torch.testing.assert_close(torch.cat(last), blocks[[3, 5]])


def test_rows_of_texts_in_a_batch() -> None:
    assert rows_of([torch.tensor([2]), torch.tensor([0, 1])], [3, 2]).tolist() == [2, 3, 4]


def test_models_of_another_form_are_refused() -> None:
    class Other(Stock):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            del self.model.norm

    with pytest.raises(ValueError, match="Inner does not fit: it has none of the parts norm, norm_f"):
        make("ar", Other)


def test_of_a_wrapper_the_language_model_is_loaded() -> None:
    names = ["model.vision_tower.x", "model.language_model.layers.0.x", "language_model.model.norm.weight",
             "language_model.lm_head.weight", "lm_head.weight", "multi_modal_projector.x"]  # fmt: skip
    wanted = ["model.layers.0.x", "model.norm.weight", "lm_head.weight", "lm_head.weight"]
    weights = [(name, torch.zeros(1)) for name in names]
    assert [name for name, _ in unwrapped(weights)] == wanted
    model = make("av", config=SimpleNamespace(text_config=SimpleNamespace(hidden_size=SIZE)))
    model.load_weights(weights)
    assert model.loaded == wanted


def test_heads_that_do_not_fit(tmp_path: Path) -> None:
    file = tmp_path / "head.safetensors"
    save_file({"weight": torch.eye(SIZE), "short": torch.ones(1)}, file)
    module = nn.Linear(SIZE, SIZE)
    with pytest.raises(ValueError, match="has no bias: it has"):
        load_head(module, ValueHead(file=file, weight="weight", bias="bias"))
    with pytest.raises(ValueError, match=r"short is \[1\], not \[4\]"):
        load_head(module, ValueHead(file=file, weight="weight", bias="short"))


NAMED = """
import sys
from nla_engine.checkpoint import Checkpoint
from nla_engine.classes.registry import model_class, register_model
from sglang.srt.models.registry import ModelRegistry
for name in ("Qwen2ForCausalLM", "Gemma3ForCausalLM"):
    for role, kind in (("av", "verbalizer"), ("ar", "reconstructor"), ("source", "source")):
        register_model(role, Checkpoint(architecture=name))
        model, found = ModelRegistry.resolve_model_cls([name])
        assert (model.__name__, found, model.nla_kind) == (name, name, kind)
        assert ModelRegistry.is_arch_supported(name)
assert len(ModelRegistry.models) == 2
try:
    model_class("av", Checkpoint(architecture="NoSuchForCausalLM"))
except ValueError as error:
    sys.stdout.write(f"good: {error}")
"""


def test_sglang_finds_ours_under_its_own_models_name() -> None:
    run = run_program(NAMED)
    assert run.stdout.endswith("good: this SGLang has no model of architecture NoSuchForCausalLM"), run.stderr
