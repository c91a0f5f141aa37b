"""Whether adapters can be merged into a base: `python -m nla_engine.adapters.check`, asked before any engine starts."""

import json
import math
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from nla_engine.adapters.files import AdapterError, read_heads, weight_files, weight_names
from nla_engine.adapters.lora import Factor, check_all_used, check_weight, factors_of, stem
from nla_engine.checkpoint import Given


def check(
    base: Path, adapters: Sequence[Given], blocks: int | None, files: Collection[str] | None = None, *, tied: bool
) -> None:
    """Check by the heads of the files, and the factors' values, that adapters can be merged into a base.

    Args:
        base: its folder.
        adapters: in the order in which they are stacked.
        blocks: the base's first ones, which are kept; None: all.
        files: the base's that are read, of those that its index names; None: all.
        tied: whether lm_head is the embedding table.

    Raises:
        AdapterError: they cannot.
    """
    factors = factors_of(adapters, blocks)
    read = [path for path in weight_files(base) if files is None or path.name in files]
    heads = {stem(name): (name, head) for path in read for name, head in read_heads(path).items()}
    there = {*heads, *(map(stem, weight_names(base)) if files is not None else ())}
    if tied:
        # SGLang reads such a table for the embedding alone, or for nothing.
        heads.pop("lm_head.weight", None)
        there.discard("lm_head.weight")
    for name in factors.keys() & heads.keys():
        full, head = heads[name]
        check_weight(full, head.dtype, head.shape, factors[name])
    check_all_used(factors, there)
    _check_values(factors)


def _check_values(factors: Mapping[str, Sequence[Factor]]) -> None:
    """Raise AdapterError where a factor holds NaN or infinite values."""
    import ml_dtypes  # noqa: F401 - with it numpy, and so safetensors, know bfloat16
    import numpy as np
    from safetensors import safe_open

    names: dict[Path, list[str]] = {}
    for factor in (factor for several in factors.values() for factor in several):
        names.setdefault(factor.file, []).extend((factor.a, factor.b))
    for file, inside in names.items():
        with safe_open(file, framework="numpy") as tensors:
            for name in inside:
                # The sum is NaN or infinite if any element is.
                if not math.isfinite(tensors.get_tensor(name).astype(np.float32).sum(dtype=np.float64)):
                    raise AdapterError(f"{file}: {name} has NaN or infinite values: export or fetch it again")


def main() -> int:
    """Check what stands on stdin, the arguments of `check`; a fault is one line on stdout, and exit code 1."""
    wanted = json.load(sys.stdin)
    try:
        adapters = [Given(Path(given["path"]), given["use_rslora"]) for given in wanted["adapters"]]
        check(Path(wanted["base"]), adapters, wanted["blocks"], wanted["files"], tied=wanted["tied"])
    except AdapterError as error:
        sys.stdout.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
