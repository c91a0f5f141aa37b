"""What the trainings of verbalizers share: their loss, and rows of tokens of one length."""

from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import nn

IGNORED: Final = -100


def answer_loss(model: Any, prompt: torch.Tensor, at: int, rows: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of answers behind a prompt in which a vector stands in the marker's place.

    Args:
        model: the verbalizer.
        prompt: its token ids [T].
        at: the marker's place.
        rows: vectors [N, d_model], scaled as they are injected.
        targets: token ids of the answers [N, T], `IGNORED` behind their ends.
    """
    # Nothing before the marker depends on the vector: it is computed once for the whole batch.
    prefix = model(input_ids=prompt[None, :at], use_cache=True, logits_to_keep=1).past_key_values
    prefix.batch_repeat_interleave(len(rows))
    rest = torch.cat([prompt[at + 1 :].expand(len(rows), -1), targets.clamp(min=0)], dim=1)
    embeds = torch.cat([rows[:, None], model.get_input_embeddings()(rest)], dim=1)
    # As indices: states cut out by a slice are not contiguous, and the head's weights would be copied for each row.
    last = torch.arange(embeds.shape[1] - targets.shape[1] - 1, embeds.shape[1])
    logits = model(inputs_embeds=embeds, past_key_values=prefix, logits_to_keep=last).logits
    return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), targets.flatten(), ignore_index=IGNORED)


def padded(rows: Sequence[Sequence[int]], fill: int, *, left: bool) -> torch.Tensor:
    """Make rows [N, T] of one length."""
    width = max(len(row) for row in rows)
    filled = [[fill] * (width - len(row)) for row in rows]
    return torch.tensor([[*more, *row] if left else [*row, *more] for row, more in zip(rows, filled, strict=True)])
