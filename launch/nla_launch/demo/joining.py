"""From the base and what was trained to checkpoints as others release them: base, verbalizer, reconstructor.

`python -m nla_launch.demo.joining TRAINED OUT`; see `join`.
"""

import copy
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import save_file

from nla_gateway.roles import Role
from nla_launch.demo.base import LAYER, check_weights, load_model, load_tokenizer
from nla_launch.demo.prompts import VALUE_HEAD, write_sidecar


def join(model: Any, tokenizer: Any, trained: Path, folder: Path, *, layer: int = LAYER) -> None:
    """Write the three checkpoints, in bfloat16.

    Args:
        model: the base; it is left as it is.
        tokenizer: its.
        trained: folder of `verbalizer` and `reconstructor`: an adapter each, and the value head beside the second's.
        folder: where `base`, `verbalizer` and `reconstructor` go.
        layer: the block that is read.
    """
    _save(model, tokenizer, folder / "base")
    verbalizer = PeftModel.from_pretrained(copy.deepcopy(model), trained / "verbalizer").merge_and_unload()
    _save(verbalizer, tokenizer, folder / "verbalizer")
    reconstructor = copy.deepcopy(model)
    reconstructor.model.layers = reconstructor.model.layers[: layer + 1]
    reconstructor.config.num_hidden_layers = layer + 1
    PeftModel.from_pretrained(reconstructor.model, trained / "reconstructor").merge_and_unload()  # in place
    _save(reconstructor, tokenizer, folder / "reconstructor", without=("model.norm.", "lm_head."))
    shutil.copyfile(trained / "reconstructor" / VALUE_HEAD, folder / "reconstructor" / VALUE_HEAD)
    for role, name in ((Role.AV, "verbalizer"), (Role.AR, "reconstructor")):
        write_sidecar(folder / name, role, tokenizer, d_model=model.config.hidden_size, layer=layer)


def _save(model: Any, tokenizer: Any, folder: Path, without: tuple[str, ...] = ()) -> None:
    folder.mkdir(parents=True)
    if model.config.tie_word_embeddings:
        without = (*without, "lm_head.")
    weights = {
        name: value.to(torch.bfloat16).contiguous()
        for name, value in model.state_dict().items()
        if not name.startswith(without)
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = copy.deepcopy(model.config)
    config.architectures, config.dtype = [type(model).__name__], torch.bfloat16
    config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    check_weights()
    join(load_model(), load_tokenizer(), Path(sys.argv[1]), Path(sys.argv[2]))
