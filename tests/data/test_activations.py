"""How client/README.md takes activations is right, for every family, on small checkpoints with random weights."""

from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from nla_client.vectors import as_vectors
from tests.checkpoints import BLOCKS, D_MODEL, Family, make_pair
from tests.pages import of_kind

BLOCK: Final = of_kind("activations")[0].text
SETTINGS: Final = 'NAME, LAYER = "Qwen/Qwen2.5-7B-Instruct", 20'
DTYPES: Final = {"bfloat16": torch.bfloat16, "float32": torch.float32}


class Taken(NamedTuple):
    """What the block leaves behind, and what transformers says beside it."""

    names: dict[str, Any]
    hidden_states: tuple[torch.Tensor, ...]
    """Of the one text, [tokens, d] each."""


def run_block(folder: Path, layer: int) -> dict[str, Any]:
    assert SETTINGS in BLOCK
    names: dict[str, Any] = {}
    exec(BLOCK.replace(SETTINGS, f"NAME, LAYER = {str(folder)!r}, {layer}"), names)  # noqa: S102
    return names


def take(folder: Path, layer: int) -> Taken:
    names = run_block(folder, layer)
    tokens = names["tokenizer"](names["text"], add_special_tokens=False, return_tensors="pt")
    with torch.inference_mode():
        hidden = names["model"](**tokens, output_hidden_states=True).hidden_states
    return Taken(names, tuple(state[0] for state in hidden))


@pytest.fixture(scope="module", params=["qwen2", "llama", "gemma3", "gemma3 with its wrapper"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    family: Family = request.param.split()[0]
    return make_pair(tmp_path_factory.mktemp("base"), family, multimodal="wrapper" in request.param).av


@pytest.fixture(params=DTYPES)
def base(request: pytest.FixtureRequest, folder: Path, tmp_path: Path) -> Path:
    """The checkpoint, stored in a dtype."""
    AutoModelForCausalLM.from_pretrained(folder, dtype=DTYPES[request.param]).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("layer", range(BLOCKS - 1))
def test_they_are_the_hidden_states_after_the_block(base: Path, layer: int) -> None:
    names, hidden = take(base, layer)
    vectors = names["vectors"]
    assert torch.equal(vectors, hidden[layer + 1])
    assert torch.equal(names["last"], hidden[layer + 1][-1])
    for other in (layer, layer + 2):  # off by one
        assert not torch.allclose(vectors, hidden[other], rtol=0.1, atol=0.1)
    assert vectors.dtype == names["model"].dtype
    assert as_vectors(vectors, "bfloat16").read(0, len(vectors)).shape == (len(vectors), D_MODEL)


def test_the_last_entry_is_after_the_final_norm(folder: Path) -> None:
    names, hidden = take(folder, BLOCKS - 1)
    assert len(hidden) == BLOCKS + 1
    assert not torch.allclose(names["vectors"], hidden[-1], rtol=0.1, atol=0.1)
    torch.testing.assert_close(names["model"].get_decoder().norm(names["vectors"]), hidden[-1])


def test_there_is_one_bos_where_there_is_any(folder: Path) -> None:
    names = run_block(folder, 0)
    tokenizer, plain = names["tokenizer"], "a text"
    assert len(names["vectors"]) == len(tokenizer.encode(names["text"], add_special_tokens=False))
    taken = names["activations"](names["model"], tokenizer, plain, 0)
    assert len(taken) == len(tokenizer.encode(plain, add_special_tokens=False)) + (tokenizer.bos_token is not None)


class OlderModel(torch.nn.Module):
    """One block that answers a tuple, as blocks did in older versions of transformers."""

    class Block(torch.nn.Module):
        def forward(self, token_ids: torch.Tensor) -> tuple[torch.Tensor, None]:
            return token_ids[..., None].float(), None

    device = "cpu"

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList([self.Block()])

    def get_decoder(self) -> "OlderModel":
        return self

    def forward(self, input_ids: torch.Tensor, **_masks: torch.Tensor) -> torch.Tensor:
        return self.layers[0](input_ids)[0]


def test_blocks_that_answer_tuples_and_hooks_that_are_gone(folder: Path) -> None:
    names, older = run_block(folder, 0), OlderModel()
    taken = names["activations"](older, names["tokenizer"], "a text", 0)
    assert taken.tolist() == [[float(token)] for token in names["tokenizer"].encode("a text")]
    for model in (names["model"], older):
        assert not model.get_decoder().layers[0]._forward_hooks
