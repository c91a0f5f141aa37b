"""A hook on loading, in the scheduler: no parameter may stay unloaded, NaN or infinite.

SGLang's loaders do not report tensors that a checkpoint lacks: the parameter keeps whatever memory held, and the
model speaks fluent nonsense. So parameters are filled with a mark first, and none of it may be left.
"""

from collections.abc import Callable
from typing import Any, Final

import torch

from nla_engine.adapters.merging import merging

LOST_SHARE: Final = 0.01
"""Of an integer parameter's values, those that may be the mark by chance; the least part of a fused one is larger."""
SLICE: Final = 1 << 24
"""Values looked at together: some are widened for it, which for a whole vocabulary would take gigabytes."""


def load_completely(original: Callable[..., None], model: Any, weights: Any, *args: Any, **kwargs: Any) -> None:
    """Load weights, adapters merged into them, then prove that every parameter is there and finite.

    Online quantization comes later: what is loaded for it is as in a model that is not quantized.

    Raises:
        ValueError: a parameter is missing from the checkpoint, wholly or in part, or holds NaN or infinite values;
            or adapters do not fit.
    """
    for parameter in _expected(model).values():
        parameter.data.fill_(_mark(parameter.dtype))
    with merging(weights) as merged:
        original(model, merged, *args, **kwargs)
    bad = [name for name, parameter in _expected(model).items() if not _is_complete(parameter)]
    if bad:
        shown = ", ".join(bad[:5]) + (f" and {len(bad) - 5} more" if len(bad) > 5 else "")
        raise ValueError(f"the checkpoint lacks these weights, or holds NaN or infinite values in them: {shown}")


def _expected(model: Any) -> dict[str, torch.Tensor]:
    """Name the parameters that a checkpoint must hold: SGLang marks those that it sets itself where there are none."""
    named = model.named_parameters()
    return {name: parameter for name, parameter in named if not getattr(parameter, "_skip_weight_check", False)}


def _mark(dtype: torch.dtype) -> float:
    """Choose what no checkpoint holds, or hardly ever where a type has no such value."""
    if dtype.is_floating_point:
        return float("nan")
    limits = torch.iinfo(dtype)
    return limits.min or limits.max


def _is_complete(parameter: torch.Tensor) -> bool:
    parts = torch.split(parameter.detach().flatten(), SLICE)
    if parameter.is_floating_point():
        # A sum is NaN or infinite if any value is, and unlike a mask it is there for types of one byte too.
        return all(bool(torch.isfinite(part.sum(dtype=torch.float64))) for part in parts)
    mark = _mark(parameter.dtype)
    return sum(int((part == mark).sum()) for part in parts) <= LOST_SHARE * parameter.numel()
