"""The sidecar `nla_meta.yaml`: how a checkpoint wants to be used. Read, checked, never guessed.

Knows the file's format in both spellings; knows nothing of tokenizers (see prompt.py).
"""

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from nla_gateway.errors import CheckpointError
from nla_gateway.roles import Role

logger = logging.getLogger(__name__)

SIDECAR: Final = "nla_meta.yaml"
KNOWN_SCHEMA_VERSIONS: Final = (2,)
OTHER_SPELLINGS: Final = {"actor": "av", "verbalizer": "av", "critic": "ar", "reconstructor": "ar"}
PLAIN: Final = (None, "raw", "none")
"""Ways to say that nothing is done to a vector."""
INJECTION_KEYS: Final = {
    "injection_scale", "injection_char", "injection_token_id", "injection_left_neighbor_id",
    "injection_right_neighbor_id",
}  # fmt: skip
"""What is known of injection. Another key may well be a rule, and one that is not followed gives fluent nonsense."""


def _number_if_any(value: object) -> object:
    """Take numbers as trainers write them: `8e4` and "150" are strings in YAML."""
    if value in PLAIN:
        return None
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


Scale = Annotated[
    Annotated[float, Field(gt=0, allow_inf_nan=False)] | Literal["sqrt_d_model"] | None, BeforeValidator(_number_if_any)
]


class _Section(BaseModel):
    """Fields that a newer sidecar adds are ignored; those that we use must be there and fit."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)


class Extraction(_Section):
    """Lengths that vectors are scaled to; null means unscaled (injection) or unscorable (mse)."""

    # No default: a misspelt key must not pass for null, which would inject unscaled vectors.
    injection_scale: Scale
    mse_scale: Scale = "sqrt_d_model"
    norm: object = None

    @field_validator("norm")
    @classmethod
    def _is_plain(cls, value: object) -> object:
        if value not in PLAIN:
            raise ValueError(f"vectors of this pair are prepared by {value!r}, which nla-serve does not know")
        return value


class Tokens(_Section):
    """The marker and what stands beside it, as token ids."""

    injection_char: str = Field(min_length=1)
    injection_token_id: int
    injection_left_neighbor_id: int
    injection_right_neighbor_id: int
    critic_suffix_ids: list[int] | None = None


class Sidecar(_Section):
    """One checkpoint's sidecar, in today's spelling."""

    schema_version: int | None = None
    kind: Literal["nla_model"]
    role: Annotated[Role, Field(strict=False)]
    d_model: int = Field(gt=0)
    layer: int | None = Field(default=None, ge=0, alias="extraction_layer_index")
    """None: trainers give it to reconstructors alone."""
    extraction: Extraction
    tokens: Tokens
    prompt_templates: dict[str, str]

    @model_validator(mode="before")
    @classmethod
    def _from_other_spellings(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        for section in (data, data.get("extraction"), data.get("tokens")):
            _refuse_unknown_injection(section)
        return {
            **data,
            "role": _our_role(data.get("role")),
            "prompt_templates": _in_our_spelling(data.get("prompt_templates")),
            "extraction_layer_index": _layer(data),
        }

    @model_validator(mode="after")
    def _has_what_its_role_needs(self) -> Self:
        if self.role not in self.prompt_templates:
            raise ValueError(f"prompt_templates has no `{self.role}`, which the role needs")
        if self.role is Role.AR and self.layer is None:
            raise ValueError("no `extraction_layer_index`, which a reconstructor needs")
        return self

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
    if sidecar.schema_version not in (None, *KNOWN_SCHEMA_VERSIONS):
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
    if av.layer is not None and av.layer != ar.layer:
        raise CheckpointError(f"no pair: the verbalizer reads layer {av.layer}, the reconstructor rebuilds {ar.layer}")


def _refuse_unknown_injection(section: object) -> None:
    for key, value in section.items() if isinstance(section, dict) else ():
        if isinstance(key, str) and key.startswith("inject") and key not in INJECTION_KEYS and value is not None:
            raise ValueError(f"`{key}: {value}` is a way of injection that nla-serve does not know")


def _our_role(name: object) -> object:
    """A role's name in our spelling; what is none stays as it is."""
    return OTHER_SPELLINGS.get(name, name) if isinstance(name, str) else name


def _in_our_spelling(templates: object) -> object:
    """Rename the roles of templates, and leave null ones out; two that differ for one role are refused."""
    if not isinstance(templates, dict):
        return templates
    found: dict[object, object] = {}
    for key, text in templates.items():
        role = _our_role(key)
        if text is not None and found.setdefault(role, text) != text:
            raise ValueError(f"prompt_templates has two different ones for `{role}`")
    return found


def _layer(data: dict[str, Any]) -> object:
    """Find the layer at the top, or where trainers put it: in the section of the reconstructor."""
    name = "extraction_layer_index"
    sections = [data, *(data.get(key) for key in ("ar", "critic", "reconstructor"))]
    given = [section[name] for section in sections if isinstance(section, dict) and section.get(name) is not None]
    if any(layer != given[0] for layer in given):
        raise ValueError(f"`{name}` is {' and '.join(map(str, given))}")
    return given[0] if given else None


def _first_problem(error: ValidationError) -> str:
    problem = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in problem["loc"] if not str(part).startswith(("literal[", "constrained-")))
    message = str(problem["msg"]).removeprefix("Value error, ")
    return f"`{where}`: {message}" if where else message
