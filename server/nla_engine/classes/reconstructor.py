"""The reconstructor as an SGLang embedding model: a base model's first K+1 blocks and a linear value head.

vector = value_head(h), h the output of block K at the last token, before any norm unless the checkpoint keeps it; not
normalised.
"""

from collections.abc import Collection
from typing import Any, ClassVar

import torch
from safetensors import safe_open
from torch import nn

from nla_engine.checkpoint import ValueHead
from nla_engine.classes.decoder import Weights
from nla_engine.classes.truncated import Truncated, last_rows


class ReconstructorMixin(Truncated):
    """Turns an SGLang causal model into a reconstructor."""

    nla_kind: ClassVar = "reconstructor"

    def __init__(self, config: Any, quant_config: Any = None, prefix: str = "") -> None:
        super().__init__(config, quant_config, prefix)
        head, size = self.nla_checkpoint.value_head, getattr(config, "text_config", config).hidden_size
        # float32 on every rank: the head is small beside the blocks, and its product is the answer.
        bias = head is not None and head.bias is not None
        self.value_head = None if head is None else nn.Linear(size, size, bias=bias, dtype=torch.float32)

    def nla_output(self, input_ids: torch.Tensor, positions: torch.Tensor, forward_batch: Any) -> Any:
        """Return EmbeddingPoolerOutput with embeddings [batch, d_model], float32."""
        from sglang.srt.layers.pooler import EmbeddingPoolerOutput

        last = self.nla_hidden(input_ids, positions, forward_batch, last_rows(forward_batch)).float()
        return EmbeddingPoolerOutput(embeddings=last if self.value_head is None else self.value_head(last))

    def load_weights(self, weights: Weights) -> object:
        """Load the blocks from the checkpoint's weights and the head from its own file."""
        loaded = super().load_weights(weights)
        if self.value_head is not None and self.nla_checkpoint.value_head is not None:
            load_head(self.value_head, self.nla_checkpoint.value_head)
        return loaded

    @property
    def nla_others(self) -> Collection[str | None]:
        """The head's, which may be in one file with others."""
        head = self.nla_checkpoint.value_head
        return () if head is None else (head.weight, head.bias)


def load_head(module: nn.Linear, head: ValueHead) -> None:
    """Load a value head from its file.

    Raises:
        ValueError: the file lacks a tensor, or one has another shape.
    """
    with safe_open(head.file, framework="pt") as tensors, torch.no_grad():
        for key, parameter in ((head.weight, module.weight), (head.bias, module.bias)):
            if key is None:
                continue
            if key not in tensors.keys():  # noqa: SIM118 - safetensors' own, which is no dict
                raise ValueError(f"{head.file} has no {key}: it has {', '.join(tensors.keys())}")
            tensor = tensors.get_tensor(key)
            if tensor.shape != parameter.shape:
                shapes = f"{list(tensor.shape)}, not {list(parameter.shape)}"
                raise ValueError(f"{head.file}: {key} is {shapes}")
            parameter.copy_(tensor)
