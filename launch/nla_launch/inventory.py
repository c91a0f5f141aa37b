"""The GPUs of another machine, for --dry-run, as a YAML file:

    gpus:
      - {count: 8, name: NVIDIA H100 80GB HBM3, memory_gb: 80, compute_capability: 9.0}

`memory_gb` counts 10^9 bytes; `name` and `compute_capability` may be left out. With --nnodes it is one node's GPUs.
"""

from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from nla_launch.errors import LaunchError
from nla_launch.gpus import Gpu


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
    try:
        inventory = Inventory.model_validate(yaml.safe_load(Path(file).read_text(encoding="utf-8")))
    except OSError as error:
        raise LaunchError(f"--inventory {file} cannot be read: {error.strerror}") from None
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"]) or "the file"
        raise LaunchError(f"--inventory {file}: {where}: {problem['msg']}") from None
    except (yaml.YAMLError, ValueError):
        raise LaunchError(f"--inventory {file} is not YAML") from None
    kinds = [kind for kind in inventory.gpus for _ in range(kind.count)]
    return [Gpu(index, kind.name, int(kind.memory_gb * 1e9), kind.capability) for index, kind in enumerate(kinds)]
