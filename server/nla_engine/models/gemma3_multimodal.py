"""The verbalizer of a Gemma 3 checkpoint that kept its multimodal wrapper."""

from collections.abc import Iterable
from typing import Any, Final

import torch
from sglang.srt.models.gemma3_causal import Gemma3ForCausalLM

WRAPPERS: Final = ("model.language_model.", "language_model.model.", "language_model.")
"""What stands before the language model's weights, by the transformers version that saved them."""


class Gemma3MultimodalVerbalizer(Gemma3ForCausalLM):  # type: ignore[misc]  # SGLang ships no types
    """The wrapper's language model alone: SGLang's wrapper looks embeddings up itself and drops given ones."""

    def __init__(self, config: Any, quant_config: Any = None, prefix: str = "") -> None:
        super().__init__(config.text_config, quant_config, prefix)

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> object:
        """Load the language model's weights; those of the vision tower are not needed."""
        return super().load_weights(self._language(weights))

    @staticmethod
    def _language(weights: Iterable[tuple[str, torch.Tensor]]) -> Iterable[tuple[str, torch.Tensor]]:
        for name, tensor in weights:
            wrapper = next((wrapper for wrapper in WRAPPERS if name.startswith(wrapper)), None)
            if wrapper is not None:
                yield f"model.{name.removeprefix(wrapper)}", tensor


EntryClass = Gemma3MultimodalVerbalizer
