"""A hook on loading, in the scheduler: no parameter may stay unloaded, NaN or infinite.

SGLang's loaders do not report tensors that a checkpoint lacks: the parameter keeps whatever memory held, and the
model speaks fluent nonsense. So parameters are filled with NaN first, and none may be left.
"""

from collections.abc import Callable
from typing import Any

import torch

from nla_engine.adapters import merging


def load_completely(original: Callable[..., None], model: Any, weights: Any, *args: Any, **kwargs: Any) -> None:
    """Load weights, adapters merged into them, then prove that every parameter is there and finite.

    Raises:
        ValueError: a parameter is missing from the checkpoint, or holds NaN or infinite values; or adapters do not fit.
    """
    # A quantized model has scales that no checkpoint carries: only the values are checked there.
    if getattr(model, "quant_config", None) is None:
        for parameter in model.parameters():
            if _is_plain(parameter):
                parameter.data.fill_(float("nan"))
    with merging(weights) as merged:
        original(model, merged, *args, **kwargs)
    bad = [name for name, value in model.named_parameters() if _is_plain(value) and not _finite(value)]
    if bad:
        shown = ", ".join(bad[:5]) + (f" and {len(bad) - 5} more" if len(bad) > 5 else "")
        raise ValueError(f"the checkpoint lacks these weights, or holds NaN or infinite values in them: {shown}")


def _is_plain(parameter: torch.Tensor) -> bool:
    return parameter.is_floating_point() and parameter.element_size() >= 2


def _finite(parameter: torch.Tensor) -> bool:
    # The sum is NaN or infinite if any element is, and needs no mask as large as the parameter.
    return bool(torch.isfinite(parameter.detach().sum(dtype=torch.float64)))
