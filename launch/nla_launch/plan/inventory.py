"""The GPUs of another machine, for --dry-run, as a YAML file:

    gpus:
      - {count: 8, name: NVIDIA H100 80GB HBM3, memory_gb: 80, compute_capability: 9.0}

`memory_gb` counts 10^9 bytes; `name` and `compute_capability` may be left out. With --nnodes it is one node's GPUs.
"""

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from nla_launch.plan.gpus import Gpu
from nla_launch.yaml_files import read_yaml


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class InventoryGpus(_Frozen):
    """Equal GPUs."""

    count: int = Field(default=1, ge=1, le=1024)
    name: str = "GPU"
    memory_gb: float = Field(gt=0, allow_inf_nan=False)
    # YAML reads 9.0 as a number.
    compute_capability: Annotated[str, BeforeValidator(str), Field(pattern=r"^\d{1,2}\.\d$")] | None = None

    @property
    def capability(self) -> tuple[int, int] | None:
        """Major and minor."""
        if self.compute_capability is None:
            return None
        major, minor = self.compute_capability.split(".")
        return int(major), int(minor)


class Inventory(_Frozen):
    """A machine's GPUs, in the order of their indices."""

    gpus: list[InventoryGpus] = Field(min_length=1)


def read_inventory(file: str) -> list[Gpu]:
    """Read the file.

    Raises:
        LaunchError: it cannot be read or holds something else.
    """
    inventory = read_yaml(Path(file), "--inventory", Inventory)
    kinds = [kind for kind in inventory.gpus for _ in range(kind.count)]
    return [Gpu(index, kind.name, int(kind.memory_gb * 1e9), kind.capability) for index, kind in enumerate(kinds)]
