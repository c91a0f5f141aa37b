"""The verbalizer as an SGLang model: vectors get in between its blocks.

SGLang brings each vector with its row of the batch, and would put it among the embeddings. Those given embeddings are
left aside: some models scale them once more, some refuse or drop them, and a vector that is added needs the marker's
own. So it is a hook on a block that sees to it, the same in all models.
"""

import inspect
from typing import Any, ClassVar

import torch

from nla_engine.classes.decoder import EMBEDDINGS, Decoder, find


class VerbalizerMixin(Decoder):
    """Lets vectors into an SGLang causal model."""

    nla_kind: ClassVar = "verbalizer"

    def __init__(self, config: Any, quant_config: Any = None, prefix: str = "") -> None:
        super().__init__(config, quant_config, prefix)
        self._batch: Any = None
        injection, layers = self.nla_checkpoint.injection, self.nla_layers
        if injection.rule == "add_after_block":
            if injection.block >= len(layers):
                raise ValueError(f"no vector can be added after block {injection.block}: there are {len(layers)}")
            layers[injection.block].register_forward_hook(self._add)
        else:
            self._place = place_of_input(layers[0])
            layers[0].register_forward_pre_hook(self._replace, with_kwargs=True)

    def get_input_embeddings(self) -> Any:
        """Return the embeddings, into which SGLang writes; not all of its models have the method."""
        decoder = self.nla_decoder
        return getattr(decoder, find(decoder, EMBEDDINGS))

    @torch.no_grad()
    def forward(
        self,
        input_ids: torch.Tensor,
        positions: torch.Tensor,
        forward_batch: Any,
        input_embeds: torch.Tensor | None = None,
        **options: Any,
    ) -> Any:
        """Compute as the model does, from ids alone, with the batch's vectors in it."""
        self._batch = forward_batch
        return super().forward(input_ids, positions, forward_batch, **options)

    def _replace(self, layer: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        """Put vectors in the place of the first block's input; in place, for nothing else has it yet."""
        if self._batch.replace_embeds is not None:
            hidden = named["hidden_states"] if "hidden_states" in named else arguments[self._place]
            hidden[self._batch.replace_positions] = self._batch.replace_embeds.to(hidden.dtype)

    def _add(self, layer: Any, arguments: tuple[Any, ...], output: Any) -> Any:
        """Add vectors to a block's output, which comes in one of three forms."""
        batch = self._batch
        if batch.replace_embeds is None:
            return None
        rows = batch.replace_positions
        if batch.residual_stream is not None:
            from sglang.srt.layers.layer_boundary.residual import batch as residual_batch

            hidden = residual_batch.fold(output, batch)
            hidden[rows] = added(hidden[rows], batch.replace_embeds)
            return hidden
        if isinstance(output, tuple):
            hidden, residual = output[:2]
            hidden[rows] = added(hidden[rows] + residual[rows], batch.replace_embeds)
            residual[rows] = 0
            return output
        output[rows] = added(output[rows], batch.replace_embeds)
        return output


def place_of_input(layer: torch.nn.Module) -> int:
    """Tell which of a block's arguments its input is.

    Raises:
        ValueError: none has the name that it has in all models that we know.
    """
    names = list(inspect.signature(layer.forward).parameters)
    if "hidden_states" not in names:
        raise ValueError(f"{type(layer).__name__} does not fit: its input is not called hidden_states")
    return names.index("hidden_states")


def added(rows: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
    """Add to each row h its vector v, as long as the row is: h + |h| v/|v|.

    Args:
        rows: [n, d_model].
        vectors: [n, d_model], none of them 0.

    Returns:
        [n, d_model] in the rows' dtype, rounded once from float32.
    """
    hidden, given = rows.float(), vectors.to(rows.device).float()
    given = given / given.abs().amax(-1, keepdim=True)  # squares of large elements would overflow
    total = hidden + norms(hidden) * given / norms(given)
    return total.to(rows.dtype)


def norms(rows: torch.Tensor) -> torch.Tensor:
    """Return the rows' lengths [n, 1]."""
    lengths: torch.Tensor = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    return lengths
