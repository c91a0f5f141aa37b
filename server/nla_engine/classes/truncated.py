"""A causal model's first blocks alone: what the reconstructor and the source have in common."""

from collections.abc import Collection
from typing import Any

import torch
from torch import nn

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


class SomeRows:
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


class Truncated(Decoder):
    """Turns an SGLang causal model into one that ends with the output of its last block, before any norm."""

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
        # Of the last block, its MLP is most of what rows would cost that nobody reads.
        mlp = getattr(self.nla_layers[-1], "mlp", None)
        self._some = SomeRows(mlp) if on_cpu() and mlp is not None else None

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
        """Return EmbeddingPoolerOutput, as SGLang asks an embedding model for it."""
        return self.nla_output(input_ids, positions, forward_batch)

    def nla_output(self, input_ids: torch.Tensor, positions: torch.Tensor, forward_batch: Any) -> Any:
        """Compute what the engine answers."""
        raise NotImplementedError

    def nla_hidden(
        self, input_ids: torch.Tensor, positions: torch.Tensor, forward_batch: Any, rows: torch.Tensor
    ) -> torch.Tensor:
        """Compute the last block's output at some rows [n] of a batch: [n, d_model]."""
        if self._some is not None:
            self._some.rows = rows
        hidden = self.nla_decoder(input_ids=input_ids, positions=positions, forward_batch=forward_batch)
        chosen: torch.Tensor = hidden[rows]
        return chosen

    def nla_wanted(self, weights: Weights) -> Weights:
        """Drop lm_head, the final norm, later blocks, and what is in files beside the model's.

        SGLang offers the tensors of every file in the folder; those of a value head's file have names without a dot.
        """
        blocks, others = len(self.nla_layers), self.nla_others
        for name, tensor in weights:
            block = block_of(name)
            unwanted = "." not in name or name in others or name.startswith(tuple(self._dropped))
            if not unwanted and (block is None or block < blocks):
                yield name, tensor

    @property
    def nla_others(self) -> Collection[str | None]:
        """Names of tensors that are loaded by other ways."""
        return ()


def last_rows(forward_batch: Any) -> torch.Tensor:
    """Tell at which rows [batch] of a batch its texts end."""
    ends: torch.Tensor = forward_batch.extend_seq_lens.cumsum(0) - 1
    return ends
