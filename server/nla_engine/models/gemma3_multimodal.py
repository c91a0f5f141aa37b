"""The verbalizer of a Gemma 3 checkpoint that kept its multimodal wrapper."""

from typing import Any

import torch
from sglang.srt.models.gemma3_mm import Gemma3ForConditionalGeneration


class Gemma3MultimodalVerbalizer(Gemma3ForConditionalGeneration):  # type: ignore[misc]  # SGLang ships no types
    """SGLang's wrapper looks the embeddings up itself and drops given ones; this one passes them on."""

    def forward(
        self,
        input_ids: torch.Tensor,
        positions: torch.Tensor,
        forward_batch: Any,
        input_embeds: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Run the language model on the given embeddings; without any, run the wrapper as it is."""
        if input_embeds is None:
            return super().forward(input_ids, positions, forward_batch, **kwargs)
        return self.language_model(input_ids, positions, forward_batch, input_embeds)


EntryClass = Gemma3MultimodalVerbalizer
