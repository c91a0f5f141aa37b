"""Hooks on sampling, in the scheduler: every request draws from its own seed.

SGLang honours `sampling_seed` only in its deterministic mode, which also changes kernels. The sampler itself takes
per-request seeds in any mode; only the batch has to carry them.
"""

from collections.abc import Callable
from typing import Any, Final

import torch

SEED_STRIDE: Final = 1_000_003


def seed_each_request(result: Any, cls: type, batch: Any, *args: Any, **kwargs: Any) -> None:
    """Give the batch the seeds that its requests came with; the gateway sends one with every request.

    Merging batches needs the tensor in all of them, so requests without a seed (health checks) get 0.
    """
    if result.sampling_seed is None:
        seeds = [request.sampling_params.sampling_seed or 0 for request in batch.reqs]
        result.sampling_seed = torch.tensor(seeds, dtype=torch.int64).to(result.temperatures.device)


def draw_in_vocabulary_order(  # noqa: PLR0917 - SGLang's signature
    original: Callable[..., torch.Tensor],
    probs: torch.Tensor,
    top_ks: torch.Tensor,
    top_ps: torch.Tensor,
    min_ps: torch.Tensor,
    need_min_p_sampling: bool,
    sampling_seed: torch.Tensor | None,
    positions: torch.Tensor,
    **options: Any,
) -> Any:
    """Filter by top-k and top-p, then draw with a request's noise on its token ids.

    SGLang's own puts the noise on ranks, and takes this path for a whole batch once one request filters: a seeded
    request's text would depend on its neighbours.

    Args:
        original: SGLang's function, for what needs no seed or asks for more.
        probs: [batch, vocabulary].
        top_ks: [batch].
        top_ps: [batch].
        min_ps: [batch].
        need_min_p_sampling: whether any request filters by min-p.
        sampling_seed: [batch] or None.
        positions: [batch], the drawn token's position in its sequence.
        options: what only the original knows.

    Returns:
        Token ids [batch], int32.
    """
    if sampling_seed is None or need_min_p_sampling or options.get("return_filtered_probs"):
        return original(probs, top_ks, top_ps, min_ps, need_min_p_sampling, sampling_seed, positions, **options)
    from sglang.srt.layers.sampler import multinomial_with_seed

    ordered, ids = probs.sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(dim=-1) - ordered
    ranks = torch.arange(probs.shape[-1], device=probs.device)
    ordered[(ranks >= top_ks.view(-1, 1)) | (before > top_ps.view(-1, 1))] = 0.0
    kept = torch.zeros_like(probs, dtype=torch.float64).scatter_(1, ids, ordered.double())
    return multinomial_with_seed(kept.log_(), sampling_seed, positions).view(-1).to(torch.int32)


def cap_on_cpu(logits: torch.Tensor, cap: float) -> torch.Tensor:
    """Keep logits below a cap by a tanh, in place, as Gemma 2 has it.

    Stands for SGLang's function of the same signature on CPUs, where that one needs a compiled kernel.

    Args:
        logits: [batch, vocabulary].
        cap: what they stay below.

    Returns:
        The logits.
    """
    return logits.div_(cap).tanh_().mul_(cap)


def multinomial_on_cpu(logprobs: torch.Tensor, seed: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Draw one column of each row by the Gumbel trick, with noise that depends on the row's seed and position alone.

    Stands for SGLang's function of the same signature on CPUs, where that one needs a compiled kernel.

    Args:
        logprobs: [batch, columns], unnormalised log-probabilities; -inf is never drawn.
        seed: [batch], integers.
        positions: [batch], the drawn token's position in its sequence.

    Returns:
        Column indices [batch, 1].
    """
    noise = torch.empty(logprobs.shape, dtype=torch.float64)
    generator = torch.Generator()
    for row, (row_seed, position) in enumerate(zip(seed.tolist(), positions.tolist(), strict=True)):
        generator.manual_seed(row_seed * SEED_STRIDE + position)
        noise[row].exponential_(generator=generator)
    return (logprobs.double() - noise.log()).argmax(dim=1, keepdim=True)
