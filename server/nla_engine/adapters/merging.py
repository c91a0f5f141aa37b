"""LoRA adapters, merged into the base's weights while they are loaded: W + sum of scale * B @ A.

SGLang's own --lora-paths ignores use_rslora, takes one adapter a request and knows no regular expressions: nothing
here goes by it. The loader's stream has whole tensors, before any are sharded or fused, so that the same merge holds
for every class and any number of GPUs. One weight at a time is in memory twice.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import torch
from safetensors import safe_open

from nla_engine.adapters.files import AdapterError
from nla_engine.adapters.lora import Factor, block_of, check_all_used, check_weight, factors_of, stem
from nla_engine.checkpoint import Checkpoint, Given

_DTYPES: Final = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


@contextmanager
def merging(weights: Iterable[tuple[str, torch.Tensor]]) -> Iterator[Iterator[tuple[str, torch.Tensor]]]:
    """Merge this engine's adapters into weights that are being loaded; all must have found theirs at the end.

    Args:
        weights: names and whole tensors, as the base's files have them.

    Raises:
        AdapterError: an adapter does not fit.
    """
    checkpoint = Checkpoint.told()
    merge = Merge(checkpoint.adapters, checkpoint.blocks)
    yield merge.stream(weights)
    merge.finish()


class Merge:
    """One pass over a base's weights, with adapters merged into it."""

    def __init__(self, adapters: Iterable[Given], blocks: int | None = None) -> None:
        """Read the adapters' heads.

        Args:
            adapters: in the order in which they are stacked.
            blocks: the base's first ones, which are kept; None: all.

        Raises:
            AdapterError: one cannot be merged.
        """
        self._factors, self._blocks = factors_of(adapters, blocks), blocks
        self._used: set[str] = set()

    def stream(self, weights: Iterable[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
        """Pass weights on: those of blocks beyond the kept ones are left out, those with factors come in float32.

        The engine's parameter rounds such a weight, once.

        Raises:
            AdapterError: factors do not fit a weight.
        """
        for full, tensor in weights:
            name = stem(full)
            block = block_of(name)
            if self._blocks is not None and block is not None and block >= self._blocks:
                continue
            factors = self._factors.get(name, ())
            yield full, self._merged(full, name, tensor, factors) if factors else tensor

    def finish(self) -> None:
        """Raise AdapterError where factors found no weight.

        Of a base's first blocks, what is in none of them may be in a file that is not read, as lm_head; that the base
        has it was asked before.
        """
        expected = self._factors
        if self._blocks is not None:
            expected = {name: factors for name, factors in expected.items() if block_of(name) is not None}
        check_all_used(expected, self._used)

    def _merged(self, full: str, name: str, tensor: torch.Tensor, factors: Sequence[Factor]) -> torch.Tensor:
        if name in self._used:
            raise AdapterError(f"the base has two weights {name}, of which one is {full}: which is the adapter's?")
        self._used.add(name)
        check_weight(full, _DTYPES.get(tensor.dtype, str(tensor.dtype)), tensor.shape, factors)
        return merged(tensor, factors)


@torch.no_grad()
def merged(weight: torch.Tensor, factors: Iterable[Factor]) -> torch.Tensor:
    """Add factors to a weight [out, in]; float32, a new tensor.

    Raises:
        AdapterError: a factor holds NaN or infinite values.
    """
    total = weight.to(torch.float32, copy=True)
    for factor in factors:
        a, b = _load(factor.file, factor.a, factor.b)
        for name, side in ((factor.a, a), (factor.b, b)):
            if not torch.isfinite(side.sum(dtype=torch.float64)):
                raise AdapterError(f"{factor.file}: {name} has NaN or infinite values: export or fetch it again")
        total.addmm_(b.to(total.device), a.to(total.device), alpha=factor.scale)
    return total


def _load(file: Path, *names: str) -> list[torch.Tensor]:
    with safe_open(file, framework="pt") as tensors:
        return [tensors.get_tensor(name).to(torch.float32) for name in names]
