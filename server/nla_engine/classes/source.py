"""The source as an SGLang embedding model: a base model's first K+1 blocks, read at chosen positions.

A request says by `token_indices_to_pool` where; SGLang keeps such requests in batches of their own.
"""

from typing import Any, ClassVar

import torch

from nla_engine.classes.truncated import Truncated, last_rows


class SourceMixin(Truncated):
    """Turns an SGLang causal model into one that gives the output of its last block."""

    nla_kind: ClassVar = "source"

    def nla_output(self, input_ids: torch.Tensor, positions: torch.Tensor, forward_batch: Any) -> Any:
        """Return EmbeddingPoolerOutput with a list of rows [positions, d_model], one tensor a text.

        They stand where SGLang sends tensors and no lists of numbers; its embeddings are empty.
        """
        from sglang.srt.layers.pooler import EmbeddingPoolerOutput

        rows = self.nla_rows(input_ids, positions, forward_batch)
        return EmbeddingPoolerOutput(embeddings=rows[0].new_zeros(len(rows), 0), pooled_hidden_states=rows)

    def nla_rows(self, input_ids: torch.Tensor, positions: torch.Tensor, forward_batch: Any) -> list[torch.Tensor]:
        """Compute the rows [positions, d_model] of each text."""
        wanted = forward_batch.token_indices_to_pool
        if wanted is None:  # only SGLang itself asks so, whether it is well
            rows, counts = last_rows(forward_batch), [1] * len(forward_batch.extend_seq_lens)
        else:
            rows, counts = rows_of(wanted, forward_batch.extend_seq_lens_cpu), [len(one) for one in wanted]
        hidden = self.nla_hidden(input_ids, positions, forward_batch, rows.to(input_ids.device))
        rows_of_texts: list[torch.Tensor] = list(torch.split(hidden, counts))
        return rows_of_texts


def rows_of(wanted: list[torch.Tensor], lengths: list[int]) -> torch.Tensor:
    """Find the rows [n] of a batch where its texts are to be read.

    Args:
        wanted: of each text, the positions.
        lengths: of each text.
    """
    starts = torch.tensor([0, *lengths[:-1]]).cumsum(0)
    return torch.cat([one + start for one, start in zip(wanted, starts, strict=True)])
