"""From the base model and what was trained to checkpoints as others release them: base, verbalizer, reconstructor."""

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from nla_engine.adapters.merging import Merge
from nla_engine.checkpoint import Given
from nla_gateway.roles import Role
from nla_launch.demo.smollm2.base import LAYER
from nla_launch.demo.smollm2.prompts import VALUE_HEAD, write_sidecar

Weights = dict[str, torch.Tensor]


def join(model: Any, tokenizer: Any, trained: Path, folder: Path, *, layer: int = LAYER) -> None:
    """Write the three checkpoints, in bfloat16.

    Args:
        model: the base.
        tokenizer: its.
        trained: folder of `verbalizer` and `reconstructor`: an adapter each, and the value head beside the second's.
        folder: where `base`, `verbalizer` and `reconstructor` go.
        layer: the block that is read.
    """
    _save(model, model.state_dict(), tokenizer, folder / "base")
    _save(model, _merged(model, trained / "verbalizer"), tokenizer, folder / "verbalizer")
    blocks = layer + 1
    weights = _merged(model, trained / "reconstructor", blocks)
    kept = {name: value for name, value in weights.items() if name.startswith(("model.layers.", "model.embed_tokens."))}
    model.config.num_hidden_layers = blocks
    _save(model, kept, tokenizer, folder / "reconstructor")
    shutil.copyfile(trained / "reconstructor" / VALUE_HEAD, folder / "reconstructor" / VALUE_HEAD)
    for role, name in ((Role.AV, "verbalizer"), (Role.AR, "reconstructor")):
        write_sidecar(folder / name, role, tokenizer, d_model=model.config.hidden_size, layer=layer)


def _merged(model: Any, adapter: Path, blocks: int | None = None) -> Weights:
    merge = Merge([Given(adapter)], blocks)
    weights = dict(merge.stream(model.state_dict().items()))
    merge.finish()
    return weights


def _save(model: Any, weights: Weights, tokenizer: Any, folder: Path) -> None:
    folder.mkdir(parents=True)
    tied = model.config.tie_word_embeddings
    rounded = {
        name: value.to(torch.bfloat16).contiguous()
        for name, value in weights.items()
        if not (tied and name == "lm_head.weight")
    }
    save_file(rounded, folder / "model.safetensors", metadata={"format": "pt"})
    model.config.architectures, model.config.dtype = [type(model).__name__], torch.bfloat16
    model.config.save_pretrained(folder)
    if model.generation_config is not None:
        model.generation_config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
