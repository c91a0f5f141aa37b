"""A hook on sampling, in the scheduler: every request draws from its own seed.

SGLang honours `sampling_seed` only in its deterministic mode, which also changes kernels. The sampler itself takes
per-request seeds in any mode; only the batch has to carry them.
"""

from typing import Any

import torch


def seed_each_request(result: Any, cls: type, batch: Any, *args: Any, **kwargs: Any) -> None:
    """Give the batch the seeds that its requests came with; the gateway sends one with every request.

    Merging batches needs the tensor in all of them, so requests without a seed (health checks) get 0.
    """
    if result.sampling_seed is None:
        seeds = [request.sampling_params.sampling_seed or 0 for request in batch.reqs]
        result.sampling_seed = torch.tensor(seeds, dtype=torch.int64).to(result.temperatures.device)
