"""The sidecar `nla_meta.yaml`: how a checkpoint wants to be used. Read, checked, never guessed.

Knows the file's format in both spellings; knows nothing of tokenizers (see prompt.py).
"""

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from nla_gateway.errors import CheckpointError
from nla_gateway.roles import Role

logger = logging.getLogger(__name__)

SIDECAR: Final = "nla_meta.yaml"
KNOWN_SCHEMA_VERSIONS: Final = (2,)
OLDER_ROLES: Final = {"actor": "av", "critic": "ar"}

Scale = Annotated[float, Field(gt=0, allow_inf_nan=False)] | Literal["sqrt_d_model"] | None


def _raw_is_none(value: object) -> object:
    return None if value == "raw" else value


class _Section(BaseModel):
    """Fields that a newer sidecar adds are ignored; those that we use must be there and fit."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)


class Extraction(_Section):
    """Lengths that vectors are scaled to; null means unscaled (injection) or unscorable (mse)."""

    # No default: a misspelt key must not pass for null, which would inject unscaled vectors.
    injection_scale: Annotated[Scale, BeforeValidator(_raw_is_none)]
    mse_scale: Scale


class Tokens(_Section):
    """The marker and what stands beside it, as token ids."""

    injection_char: str = Field(min_length=1)
    injection_token_id: int
    injection_left_neighbor_id: int
    injection_right_neighbor_id: int
    critic_suffix_ids: list[int] | None = None


class Sidecar(_Section):
    """One checkpoint's sidecar, in today's spelling."""

    schema_version: int
    kind: Literal["nla_model"]
    role: Annotated[Role, Field(strict=False)]
    d_model: int = Field(gt=0)
    layer: int = Field(ge=0, alias="extraction_layer_index")
    extraction: Extraction
    tokens: Tokens
    prompt_templates: dict[str, str]

    @model_validator(mode="before")
    @classmethod
    def _from_older_spelling(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        templates = data.get("prompt_templates")
        if isinstance(templates, dict):
            templates = {OLDER_ROLES.get(key, key): text for key, text in templates.items()}
        role = data.get("role")
        return {**data, "role": OLDER_ROLES.get(role, role) if isinstance(role, str) else role,
                "prompt_templates": templates}  # fmt: skip

    @property
    def injection_scale(self) -> float | None:
        """Norm that an injected vector gets; None: as it is."""
        return self._number(self.extraction.injection_scale)

    @property
    def mse_scale(self) -> float | None:
        """Norm that vectors are scored at; None: scores make no sense."""
        return self._number(self.extraction.mse_scale)

    def _number(self, scale: float | Literal["sqrt_d_model"] | None) -> float | None:
        return math.sqrt(self.d_model) if scale == "sqrt_d_model" else scale


def read_sidecar(folder: Path) -> Sidecar:
    """Read and check the sidecar of a checkpoint folder.

    Raises:
        CheckpointError: no folder, no sidecar, not YAML, or fields that are missing or do not fit.
    """
    path = folder / SIDECAR
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder: give a checkpoint folder or a hub repository")
    if not path.is_file():
        raise CheckpointError(f"{folder} has no {SIDECAR}: is it an NLA checkpoint? The sidecar comes with it")
    try:
        sidecar = Sidecar.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        raise CheckpointError(f"{path}: {_first_problem(error)}") from None
    _check_template(sidecar, path)
    if sidecar.schema_version not in KNOWN_SCHEMA_VERSIONS:
        logger.warning("%s has schema_version %d, which is not known here; all fields fit, going on",
                       path, sidecar.schema_version)  # fmt: skip
    return sidecar


def check_pair(sidecars: Mapping[Role, Sidecar]) -> None:
    """Raise CheckpointError where a verbalizer and a reconstructor do not belong to one pair."""
    av, ar = sidecars.get(Role.AV), sidecars.get(Role.AR)
    if av is None or ar is None:
        return
    if av.d_model != ar.d_model:
        raise CheckpointError(f"no pair: the verbalizer's d_model is {av.d_model}, the reconstructor's {ar.d_model}")
    if av.layer != ar.layer:
        raise CheckpointError(f"no pair: the verbalizer reads layer {av.layer}, the reconstructor rebuilds {ar.layer}")


def _check_template(sidecar: Sidecar, path: Path) -> None:
    template = sidecar.prompt_templates.get(sidecar.role)
    if template is None:
        raise CheckpointError(f"{path}: prompt_templates has no `{sidecar.role}`, which the role needs")


def _first_problem(error: ValidationError) -> str:
    problem = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in problem["loc"] if not str(part).startswith(("literal[", "constrained-")))
    return f"`{where}`: {problem['msg']}" if where else str(problem["msg"])
