"""The toy pair's two networks: their shapes, and how they become checkpoint folders."""

from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM, Qwen2Model

from nla_gateway.roles import Role
from nla_launch.toy import data
from nla_launch.toy.tokenizer import LAYER, write_sidecar

VERBALIZER_BLOCKS: Final = 3


class Reconstructor(nn.Module):
    """K+1 blocks, no final norm, and a linear value head on the last token."""

    def __init__(self, config: Qwen2Config) -> None:
        super().__init__()
        self.blocks = Qwen2Model(config)
        self.blocks.norm = nn.Identity()
        self.value_head = nn.Linear(data.D_MODEL, data.D_MODEL, bias=False)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Map left-padded token ids [batch, length] to vectors [batch, d_model]."""
        hidden = self.blocks(input_ids=ids, attention_mask=mask, position_ids=positions(mask)).last_hidden_state
        vectors: torch.Tensor = self.value_head(hidden[:, -1])
        return vectors


def positions(mask: torch.Tensor) -> torch.Tensor:
    """Number the tokens of left-padded rows [batch, length] from 0."""
    return (mask.long().cumsum(dim=1) - 1).clamp(min=0)


def shape(tokenizer: Any, blocks: int) -> Qwen2Config:
    """Form the configuration of a network with so many blocks."""
    return Qwen2Config(
        vocab_size=-(-len(tokenizer) // 64) * 64,
        hidden_size=data.D_MODEL,
        intermediate_size=512,
        num_hidden_layers=blocks,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def new_verbalizer(tokenizer: Any) -> Qwen2ForCausalLM:
    """Make an untrained verbalizer."""
    return Qwen2ForCausalLM(shape(tokenizer, VERBALIZER_BLOCKS))


def new_reconstructor(tokenizer: Any) -> Reconstructor:
    """Make an untrained reconstructor."""
    return Reconstructor(shape(tokenizer, LAYER + 1))


def save_verbalizer(model: Qwen2ForCausalLM, tokenizer: Any, folder: Path) -> None:
    """Write a verbalizer checkpoint, weights in bfloat16."""
    model.generation_config = GenerationConfig(
        do_sample=True, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_sidecar(folder, Role.AV, tokenizer)


def save_reconstructor(model: Reconstructor, tokenizer: Any, folder: Path) -> None:
    """Write a reconstructor checkpoint: blocks without head and norm, and the value head, in bfloat16."""
    folder.mkdir(parents=True, exist_ok=True)
    blocks = {f"model.{name}": value.to(torch.bfloat16) for name, value in model.blocks.state_dict().items()}
    save_file(blocks, folder / "model.safetensors", {"format": "pt"})
    save_file({"weight": model.value_head.weight.detach().to(torch.bfloat16)}, folder / "value_head.safetensors")
    config = model.blocks.config
    config.architectures, config.dtype = ["Qwen2ForCausalLM"], torch.bfloat16
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_sidecar(folder, Role.AR, tokenizer)
