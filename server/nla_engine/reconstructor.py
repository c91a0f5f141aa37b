"""The reconstructor as an SGLang embedding model: a base model's first K+1 blocks and a linear value head.

vector = value_head(h), h the output of block K at the last token, before any norm; not normalised. The classes in
nla_engine.models combine this mixin with one of SGLang's models.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file
from torch import nn

from nla_engine.platform import on_cpu

VALUE_HEAD: Final = "value_head.safetensors"


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


class ReconstructorMixin(nn.Module):
    """Turns an SGLang causal model into a reconstructor; goes before it in the bases."""

    model: Any

    def __init__(self, config: Any, quant_config: Any = None, prefix: str = "") -> None:
        # Tied: no memory is taken for a head that is then dropped.
        config.tie_word_embeddings = True
        super().__init__(config, quant_config=quant_config, prefix=prefix)
        del self.lm_head
        self.model.norm = CloseResidual()
        # float32 on every rank: the head is small beside the blocks, and its product is the answer.
        self.value_head = nn.Linear(config.hidden_size, config.hidden_size, bias=False, dtype=torch.float32)
        # The answer is the last token's: of the last block, its MLP is most of what the others would cost.
        self._last = LastRows(self.model.layers[-1].mlp) if on_cpu() else None

    @torch.no_grad()
    def forward(
        self,
        input_ids: torch.Tensor,
        positions: torch.Tensor,
        forward_batch: Any,
        input_embeds: torch.Tensor | None = None,
        get_embedding: bool = True,
        **kwargs: Any,
    ) -> Any:
        """Return EmbeddingPoolerOutput with embeddings [batch, d_model], float32."""
        from sglang.srt.layers.pooler import EmbeddingPoolerOutput, PoolingType, pool_hidden_states

        if self._last is not None:
            self._last.rows = forward_batch.extend_seq_lens.cumsum(0) - 1
        hidden = self.model(input_ids, positions, forward_batch, input_embeds)
        last = pool_hidden_states(PoolingType.LAST, hidden, forward_batch)
        return EmbeddingPoolerOutput(embeddings=self.value_head(last.float()))

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> object:
        """Load the blocks from the checkpoint's weights and the head from its own file."""
        loaded = super().load_weights(self._blocks(weights))  # type: ignore[misc]
        head = load_file(Path(self.config._name_or_path) / VALUE_HEAD)["weight"]  # type: ignore[union-attr, arg-type]
        with torch.no_grad():
            self.value_head.weight.copy_(head)
        return loaded

    @staticmethod
    def _blocks(weights: Iterable[tuple[str, torch.Tensor]]) -> Iterable[tuple[str, torch.Tensor]]:
        """Drop what a reconstructor has not: lm_head, the final norm, and the head's file, offered as `weight`."""
        for name, tensor in weights:
            if name != "weight" and not name.startswith(("lm_head.", "model.norm.")):
                yield name, tensor
