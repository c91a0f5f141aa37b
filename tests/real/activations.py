"""Real activations: a block's output, taken from transformers by a hook, as the README shows users to take them."""

from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

SENTENCES: Final = (
    "The committee met on Tuesday to discuss the new bridge, which will cross the river north of the old town.",
    "def mean(values):\n    return sum(values) / len(values)\n\n\nprint(mean([1, 2, 3]))",
    "She added a pinch of salt, tasted the soup again, and decided that it needed another hour on the stove.",
    "In 1905 Albert Einstein published four papers that changed how physicists think about space, time and light.",
)
PLACES: Final = (-1, -5, -9)
"""Late tokens: the first ones have outputs far longer than all others."""


@torch.no_grad()
def activations(model: Any, tokenizer: Any, layer: int) -> NDArray[np.float32]:
    """Outputs [12, d_model] of block `layer` at some tokens of the sentences."""
    taken: list[torch.Tensor] = []

    def keep(_module: Any, _inputs: Any, output: Any) -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        taken.extend(hidden[0, place].float() for place in PLACES)

    hook = model.model.layers[layer].register_forward_hook(keep)
    for sentence in SENTENCES:
        model(**tokenizer(sentence, return_tensors="pt"))
    hook.remove()
    found: NDArray[np.float32] = torch.stack(taken).numpy()
    return found
