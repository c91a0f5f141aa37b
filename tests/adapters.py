"""LoRA adapters with random factors, made and merged by peft itself."""

import json
from pathlib import Path
from typing import Any

import peft
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import save_file
from torch import nn

from nla_engine.adapters import lora

SINGLE_TARGETS = r".*\.(q|o|up)_proj"


def lively(model: Any, spread: float = 0.3) -> None:
    """Give the factors values: peft begins with B = 0."""
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_" in name:
                value.copy_(spread * torch.randn_like(value))


def save_adapter(base: nn.Module, folder: Path, *, spread: float = 0.3, **config: Any) -> Any:
    """Put an adapter into a model, save it, and return the model with it merged."""
    model = peft.get_peft_model(base, peft.LoraConfig(**{"r": 4, "lora_alpha": 9, **config}))  # type: ignore[arg-type]
    lively(model, spread)
    model.save_pretrained(folder, save_embedding_layers=False)
    return model.merge_and_unload()


def save_single_file(
    backbone: nn.Module, folder: Path, head: torch.Tensor, *, spread: float = 0.3, **config: Any
) -> None:
    """Put rsLoRA factors into a model and save a reconstructor as EasyNLA does: factors and value head in one file."""
    inject_single(backbone)
    lively(backbone, spread)
    folder.mkdir()
    tensors = {f"backbone.{n}": p.detach().clone() for n, p in backbone.named_parameters() if "lora_" in n}
    save_file({**tensors, "value_head.weight": head}, folder / lora.SINGLE)
    meta = {"ar_num_layers": 2, "lora_r": 4, "lora_alpha": 9, "quant": "none",
            "target_modules": SINGLE_TARGETS, "final_norm_stripped": True}  # fmt: skip
    (folder / lora.SINGLE_CONFIG).write_text(json.dumps({**meta, **config}))


def inject_single(backbone: nn.Module) -> None:
    """Put rsLoRA factors into a reconstructor's blocks by hand, as EasyNLA does."""
    rules = {"target_modules": SINGLE_TARGETS, "r": 4, "lora_alpha": 9}
    peft.inject_adapter_in_model(peft.LoraConfig(**rules, use_rslora=True), backbone)  # type: ignore[arg-type]


def merged_in_place(backbone: nn.Module) -> dict[str, torch.Tensor]:
    """Merge factors that were put in by hand, and name the weights as before: EasyNLA's own script does it so."""
    for module in backbone.modules():
        if isinstance(module, BaseTunerLayer):
            module.merge()
    state = backbone.state_dict().items()
    return {name.replace(".base_layer", ""): value for name, value in state if "lora_" not in name}
