"""Hooks on sampling, in the scheduler: every request draws from its own seed.

SGLang honours `sampling_seed` only in its deterministic mode, which also changes kernels. The sampler itself takes
per-request seeds in any mode; only the batch has to carry them.
"""

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
