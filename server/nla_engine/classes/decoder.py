"""What the verbalizer and the reconstructor have in common: one of SGLang's causal models, whichever it is."""

import re
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Final

import torch
from torch import nn

from nla_engine.checkpoint import Checkpoint

DECODERS: Final = ("model", "transformer", "backbone")
LAYERS: Final = ("layers", "h", "blocks")
NORMS: Final = ("norm", "norm_f", "final_layernorm", "ln_f", "embedding_norm")
EMBEDDINGS: Final = ("embed_tokens", "embeddings", "wte", "word_embeddings")
"""What parts of a decoder are called, in the models that SGLang has."""
BLOCK: Final = re.compile(rf"(?:^|\.)(?:{'|'.join(LAYERS)})\.(\d+)\.")
WRAPPERS: Final = ("model.language_model.", "language_model.model.", "language_model.")
"""What stands before the language model's weights in a multimodal wrapper's, by the transformers that saved them."""

Weights = Iterable[tuple[str, torch.Tensor]]


class Decoder(nn.Module):
    """Goes before one of SGLang's causal models in the bases; of a multimodal wrapper it is the language model alone.

    SGLang's wrappers look embeddings up themselves, and their vision towers are never needed.
    """

    nla_kind: ClassVar[str]
    """What the engine's report calls it."""
    nla_checkpoint: ClassVar[Checkpoint]
    """What it serves."""

    def __init__(self, config: Any, quant_config: Any = None, prefix: str = "") -> None:
        text = getattr(config, "text_config", config)
        if not hasattr(text, "hidden_act") and hasattr(text, "hidden_activation"):
            text.hidden_act = text.hidden_activation  # Gemma 2's, which transformers 5 does not write twice
        super().__init__(config=text, quant_config=quant_config, prefix=prefix)
        self._wrapped = text is not config
        wanted, blocks = self.nla_checkpoint.blocks, len(self.nla_layers)
        if wanted not in (None, blocks):
            raise ValueError(f"the model has {blocks} blocks, and {wanted} are to be served")

    @property
    def nla_decoder(self) -> Any:
        """The blocks with what stands before and after them."""
        return getattr(self, find(self, DECODERS))

    @property
    def nla_layers(self) -> Any:
        """The blocks."""
        decoder = self.nla_decoder
        return getattr(decoder, find(decoder, LAYERS))

    def load_weights(self, weights: Weights) -> object:
        """Load those of the language model's weights that are wanted."""
        own = unwrapped(weights) if self._wrapped else weights
        return super().load_weights(self.nla_wanted(own))  # type: ignore[misc]

    def nla_wanted(self, weights: Weights) -> Weights:
        """Choose what is to be loaded: all."""
        return weights


def find(module: nn.Module, names: Sequence[str]) -> str:
    """Tell by which of its possible names a module has a part.

    Raises:
        ValueError: by none: we do not know models of this form.
    """
    for name in names:
        if isinstance(getattr(module, name, None), nn.Module):
            return name
    raise ValueError(f"{type(module).__name__} does not fit: it has none of the parts {', '.join(names)}")


def unwrapped(weights: Weights) -> Weights:
    """Choose and rename the language model's weights among a multimodal wrapper's."""
    for name, tensor in weights:
        wrapper = next((wrapper for wrapper in WRAPPERS if name.startswith(wrapper)), None)
        inner = None if wrapper is None else name.removeprefix(wrapper)
        if name.startswith("lm_head.") or (inner is not None and inner.startswith("lm_head.")):
            yield inner or name, tensor
        elif inner is not None:
            yield f"model.{inner}", tensor


def block_of(name: str) -> int | None:
    """Tell of which block a weight is; None where it is of none."""
    match = BLOCK.search(name)
    return None if match is None else int(match[1])
