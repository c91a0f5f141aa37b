"""The reconstructor as an SGLang embedding model: a base model's first K+1 blocks and a linear value head.

vector = value_head(h), h the output of block K at the last token, before any norm unless the checkpoint keeps it; not
normalised.
"""

from typing import Any, ClassVar

import torch
from safetensors import safe_open
from torch import nn

from nla_engine.checkpoint import ValueHead
from nla_engine.classes.decoder import DECODERS, NORMS, Decoder, Weights, block_of, find
from nla_engine.cpu.platform import on_cpu


class CloseResidual(nn.Module):
    """Stands where the final norm was: adds the last block's output to the residual stream, and nothing else."""

    def forward(
        self, x: torch.Tensor, residual: torch.Tensor | None = None
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Return x + residual, in the shape that SGLang's norms return it."""
        if residual is None:
            return x
        total = x + residual
        return total, total


class LastRows:
    """Hooks on a module that treats each row by itself: only the rows that are looked at later are computed.

    The other rows of its output are 0. Set `rows` [n], their indices, before each forward.
    """

    rows: torch.Tensor

    def __init__(self, module: nn.Module) -> None:
        module.register_forward_pre_hook(self._choose)
        module.register_forward_hook(self._spread)

    def _choose(self, module: nn.Module, arguments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        self._total = len(arguments[0])
        return (arguments[0][self.rows], *arguments[1:])

    def _spread(self, module: nn.Module, arguments: object, output: torch.Tensor) -> torch.Tensor:
        return output.new_zeros(self._total, output.shape[-1]).index_copy_(0, self.rows, output)


class ReconstructorMixin(Decoder):
    """Turns an SGLang causal model into a reconstructor."""

    nla_kind: ClassVar = "reconstructor"

    def __init__(self, config: Any, quant_config: Any = None, prefix: str = "") -> None:
        text = getattr(config, "text_config", config)
        # Tied: no memory is taken for a head that is then dropped.
        text.tie_word_embeddings = True
        super().__init__(config, quant_config, prefix)
        if hasattr(self, "lm_head"):
            del self.lm_head
        inner = find(self, DECODERS)
        norm = find(self.nla_decoder, NORMS)
        self._dropped = ["lm_head."]
        if not self.nla_checkpoint.final_norm:
            setattr(self.nla_decoder, norm, CloseResidual())
            self._dropped.append(f"{inner}.{norm}.")
        head = self.nla_checkpoint.value_head
        # float32 on every rank: the head is small beside the blocks, and its product is the answer.
        size, bias = text.hidden_size, head is not None and head.bias is not None
        self.value_head = None if head is None else nn.Linear(size, size, bias=bias, dtype=torch.float32)
        # The answer is the last token's: of the last block, its MLP is most of what the others would cost.
        mlp = getattr(self.nla_layers[-1], "mlp", None)
        self._last = LastRows(mlp) if on_cpu() and mlp is not None else None

    @torch.no_grad()
    def forward(
        self,
        input_ids: torch.Tensor,
        positions: torch.Tensor,
        forward_batch: Any,
        input_embeds: torch.Tensor | None = None,
        get_embedding: bool = True,
        **options: Any,
    ) -> Any:
        """Return EmbeddingPoolerOutput with embeddings [batch, d_model], float32."""
        from sglang.srt.layers.pooler import EmbeddingPoolerOutput, PoolingType, pool_hidden_states

        if self._last is not None:
            self._last.rows = forward_batch.extend_seq_lens.cumsum(0) - 1
        hidden = self.nla_decoder(input_ids=input_ids, positions=positions, forward_batch=forward_batch)
        last = pool_hidden_states(PoolingType.LAST, hidden, forward_batch).float()
        return EmbeddingPoolerOutput(embeddings=last if self.value_head is None else self.value_head(last))

    def load_weights(self, weights: Weights) -> object:
        """Load the blocks from the checkpoint's weights and the head from its own file."""
        loaded = super().load_weights(weights)
        if self.value_head is not None and self.nla_checkpoint.value_head is not None:
            load_head(self.value_head, self.nla_checkpoint.value_head)
        return loaded

    def nla_wanted(self, weights: Weights) -> Weights:
        """Drop what a reconstructor has not: lm_head, the final norm, later blocks, and the head's file.

        SGLang offers the tensors of every file in the folder, that one's under names without a dot.
        """
        blocks, head = len(self.nla_layers), self.nla_checkpoint.value_head
        heads = set() if head is None else {head.weight, head.bias}
        for name, tensor in weights:
            block = block_of(name)
            unwanted = "." not in name or name in heads or name.startswith(tuple(self._dropped))
            if not unwanted and (block is None or block < blocks):
                yield name, tensor


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
