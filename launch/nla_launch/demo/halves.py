"""The two halves while they are trained: the base model with LoRA adapters, and for one of them a value head."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from peft import LoraConfig, get_peft_model, load_peft_weights, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import nn

from nla_launch.demo.base import BASE_MODEL, LAYER
from nla_launch.demo.examples import Examples
from nla_launch.demo.learning import IGNORED, answer_loss, padded
from nla_launch.demo.prompts import AR_TEMPLATE, INJECTION_SCALE, VALUE_HEAD, marker_id, verbalizer_ids

RANK: Final = 16
MODULES: Final = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ANSWER_TOKENS: Final = 128
"""Of an explanation, at most; one in a thousand is longer."""


def adapted(model: Any) -> Any:
    """Put LoRA factors, in float32, into a model; nothing else of it is trained."""
    model.set_attn_implementation("eager")  # on CPUs a third faster than sdpa, there and back, with short texts
    return get_peft_model(model, LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=MODULES))


def mixed(model: Any) -> torch.autocast:
    """Multiply in bfloat16 where the model's weights are: on processors that can, twice as fast."""
    return torch.autocast(model.device.type, torch.bfloat16, enabled=model.dtype == torch.bfloat16)


class Verbalizer(nn.Module):
    """Says what a vector in the marker's place holds."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        super().__init__()
        self.model, self._tokenizer = adapted(model), tokenizer
        self.prompt = torch.tensor(verbalizer_ids(tokenizer))
        (places,) = (self.prompt == marker_id(tokenizer)).nonzero(as_tuple=True)
        (self.place,) = places.tolist()

    def loss(self, examples: Examples) -> torch.Tensor:
        """Cross-entropy of the explanations' tokens."""
        ending = self._tokenizer.eos_token
        answers = [f"<explanation>{text}</explanation>{ending}" for text in examples.explanations]
        targets = padded(self._tokenizer(answers, add_special_tokens=False)["input_ids"], IGNORED, left=False)
        with mixed(self.model):
            return answer_loss(self.model, self.prompt, self.place, self._rows(examples.vectors), targets)

    @torch.no_grad()
    def say(self, vectors: NDArray[np.float32], batch: int = 64) -> list[str]:
        """Explain vectors [N, d_model] greedily, a few at a time; '' for one whose explanation does not end."""
        parts = (vectors[k : k + batch] for k in range(0, len(vectors), batch))
        return [text for part in parts for text in self._say(part)]

    def _say(self, vectors: NDArray[np.float32]) -> list[str]:
        embeds = self.model.get_input_embeddings()(self.prompt).repeat(len(vectors), 1, 1)
        embeds[:, self.place] = self._rows(vectors)
        with mixed(self.model):
            made = self.model.generate(
                inputs_embeds=embeds, attention_mask=torch.ones(embeds.shape[:2]), max_new_tokens=ANSWER_TOKENS,
                do_sample=False, pad_token_id=self._tokenizer.eos_token_id,
            )  # fmt: skip
        texts = self._tokenizer.batch_decode(made, skip_special_tokens=True)
        return [
            text.removeprefix("<explanation>").partition("</explanation>")[0] if "</explanation>" in text else ""
            for text in texts
        ]

    def _rows(self, vectors: NDArray[np.float32]) -> torch.Tensor:
        return scaled(vectors, INJECTION_SCALE).to(self.model.dtype)

    def save(self, folder: Path) -> None:
        """Write the adapter in bfloat16."""
        _save_adapter(self.model, folder)

    def load(self, folder: Path) -> None:
        """Begin with what was saved."""
        _load_adapter(self.model, folder)


class Reconstructor(nn.Module):
    """Rebuilds vectors, at norm sqrt(d_model), from explanations."""

    def __init__(self, model: Any, tokenizer: Any, layer: int = LAYER) -> None:
        super().__init__()
        self._tokenizer, d_model = tokenizer, model.config.hidden_size
        backbone = model.model
        backbone.layers = backbone.layers[: layer + 1]
        backbone.config.num_hidden_layers = layer + 1
        backbone.norm = nn.Identity()
        self.model, self.head = adapted(backbone), nn.Linear(d_model, d_model, bias=False)

    def forward(self, texts: Sequence[str]) -> torch.Tensor:
        """Rebuild [N, d_model]."""
        rebuilt: torch.Tensor = self.head(self.states(texts))
        return rebuilt

    def states(self, texts: Sequence[str]) -> torch.Tensor:
        """The last block's output at the prompts' ends [N, d_model]."""
        rows = self._tokenizer([AR_TEMPLATE.format(explanation=text) for text in texts])["input_ids"]
        with mixed(self.model):
            read = self.model(input_ids=padded(rows, 0, left=False), use_cache=False).last_hidden_state
        states: torch.Tensor = read[torch.arange(len(rows)), torch.tensor([len(row) - 1 for row in rows])]
        return states.float()

    def loss(self, examples: Examples) -> torch.Tensor:
        """Mean squared error to vectors at norm sqrt(d_model); `/critic` scales the rebuilt ones, too."""
        return nn.functional.mse_loss(self(examples.explanations.tolist()), normed(examples.vectors))

    @torch.no_grad()
    def begin(self, examples: Examples, penalty: float = 10.0, batch: int = 64) -> None:
        """Set the head by ridge regression, before anything is trained."""
        texts = examples.explanations.tolist()
        states = _in_parts(self.states, texts, batch).double()
        gram = states.T @ states + penalty * len(states) * torch.eye(states.shape[1], dtype=torch.float64)
        found = torch.linalg.solve(gram, states.T @ normed(examples.vectors).double())
        self.head.weight.copy_(found.T.float())

    @torch.no_grad()
    def rebuild(self, texts: Sequence[str], batch: int = 64) -> NDArray[np.float32]:
        """Rebuild [N, d_model], a few at a time."""
        rebuilt: NDArray[np.float32] = _in_parts(self, texts, batch).cpu().numpy()
        return rebuilt

    def save(self, folder: Path) -> None:
        """Write the adapter and the value head, in bfloat16."""
        _save_adapter(self.model, folder)
        save_file({"weight": self.head.weight.detach().to("cpu", torch.bfloat16)}, folder / VALUE_HEAD)

    @torch.no_grad()
    def load(self, folder: Path) -> None:
        """Begin with what was saved."""
        _load_adapter(self.model, folder)
        self.head.weight.copy_(load_file(folder / VALUE_HEAD)["weight"])


def normed(vectors: NDArray[np.float32]) -> torch.Tensor:
    """Vectors [N, d_model] at norm sqrt(d_model)."""
    return scaled(vectors, math.sqrt(vectors.shape[1]))


def scaled(vectors: NDArray[np.float32], norm: float) -> torch.Tensor:
    """Vectors [N, d_model] at a norm."""
    rows = torch.tensor(vectors)
    at_norm: torch.Tensor = rows * norm / rows.norm(dim=1, keepdim=True)
    return at_norm


def _in_parts(read: Callable[[Sequence[str]], torch.Tensor], texts: Sequence[str], batch: int) -> torch.Tensor:
    return torch.cat([read(texts[k : k + batch]) for k in range(0, len(texts), batch)])


def _load_adapter(model: Any, folder: Path) -> None:
    found: Any = set_peft_model_state_dict(model, load_peft_weights(str(folder), device="cpu"))
    if unknown := found.unexpected_keys:
        raise ValueError(f"{folder} is an adapter of another model: {', '.join(unknown[:3])}")


def _save_adapter(model: Any, folder: Path) -> None:
    state = {name: value.to("cpu", torch.bfloat16) for name, value in model.state_dict().items()}
    (config,) = model.peft_config.values()
    config.base_model_name_or_path = BASE_MODEL  # not a path of this machine
    model.save_pretrained(folder, state_dict=state, save_embedding_layers=False)
    (folder / "README.md").unlink()  # peft's form of a page, which nobody filled in
