"""The sidecar `nla_meta.yaml`: what a checkpoint says of itself, in the spellings of all who write one.

Only what the file says is read; nothing is decided here (see describing.py).
"""

import logging
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from nla_gateway.errors import CheckpointError
from nla_gateway.roles import Role

logger = logging.getLogger(__name__)

SIDECAR: Final = "nla_meta.yaml"
FOREIGN: Final = "nla_config.json"
"""A sidecar of another kind, which is not read."""
LEVELS_UP: Final = 2
"""How far above a local folder its sidecar may be: RUN/nla_meta.yaml for RUN/STEP/av."""
KNOWN_SCHEMA_VERSIONS: Final = {"nla_model": (1, 2), "nla_dataset": (1, 2)}
ROLES: Final = {"actor": "av", "verbalizer": "av", "critic": "ar", "reconstructor": "ar"}
RECONSTRUCTOR_SECTIONS: Final = ("ar", "critic", "reconstructor")
PLAIN: Final = ("raw", "none")
"""Ways to say that nothing is done to a vector; null says so in some places, and nothing at all in others."""
INJECTION_KEYS: Final = {
    "injection_scale", "injection_char", "injection_token_id", "injection_left_neighbor_id",
    "injection_right_neighbor_id",
}  # fmt: skip
"""What is known of injection. Another key may well be a rule, and one that is not followed gives fluent nonsense."""
KNOWN_MODES: Final = {"injection_mode": "normalize"}
PREPARATIONS: Final = {"mean", "std", "center", "centre", "centering", "standardize", "pca"}
"""Under `extraction`, what might be done to vectors."""


def _scale(value: object) -> object:
    """Take numbers as trainers write them: `8e4` and "150" are strings in YAML."""
    if value in PLAIN:
        return "raw"
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


Scale = Annotated[
    Annotated[float, Field(gt=0, allow_inf_nan=False)] | Literal["sqrt_d_model", "raw"] | None, BeforeValidator(_scale)
]


class _Section(BaseModel):
    """Fields that a newer sidecar adds are ignored; those that we use must fit."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)


class Extraction(_Section):
    """Lengths that vectors are scaled to; whether one is stated is in `model_fields_set`."""

    injection_scale: Scale = None
    mse_scale: Scale = "sqrt_d_model"
    norm: object = None

    @field_validator("norm")
    @classmethod
    def _is_plain(cls, value: object) -> object:
        if value not in (None, *PLAIN):
            raise ValueError(f"vectors of this pair are prepared by {value!r}, which nla-serve does not know")
        return value


class Tokens(_Section):
    """The marker and what stands beside it, as token ids."""

    injection_char: str | None = Field(default=None, min_length=1)
    injection_token_id: int | None = None
    injection_left_neighbor_id: int | None = None
    injection_right_neighbor_id: int | None = None
    critic_suffix_ids: list[int] | None = None


class Training(_Section):
    """What some trainers say of how they rendered prompts."""

    chat_template: object = None


class Sidecar(_Section):
    """One sidecar, in one spelling."""

    schema_version: int | None = None
    kind: Literal["nla_model", "nla_dataset"]
    """A dataset's beside weights is a copy of what they were trained on: it has no role."""
    role: Annotated[Role | None, Field(strict=False)] = None
    d_model: int | None = Field(default=None, gt=0)
    layer: int | None = Field(default=None, ge=0)
    released: bool = False
    """Whether it is in the form of the released pairs, in which null is said to mean as it is."""
    variant: object = None
    extraction: Extraction = Extraction()
    tokens: Tokens = Tokens()
    prompt_templates: dict[str, str] = {}
    training: Training = Training()

    @model_validator(mode="before")
    @classmethod
    def _from_other_spellings(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        _refuse_unknown_injection(data)
        _refuse_preparations(data)
        told = {key: value for key, value in data.items() if value is not None}
        return {
            **told,
            "role": _our_role(data.get("role")),
            "prompt_templates": _in_our_spelling(data.get("prompt_templates") or {}),
            "d_model": _one("d_model", _d_models(data)),
            "layer": _one("layer", _layers(data)),
            "released": data.get("kind") == "nla_model" and data.get("extraction_layer_index") is not None,
        }

    @model_validator(mode="after")
    def _has_a_role(self) -> "Sidecar":
        if self.kind == "nla_model" and self.role is None:
            raise ValueError("no `role`: av or ar")
        return self

    @property
    def is_of_the_reference(self) -> bool:
        """Whether it has what the reference trainer always writes, and others leave out."""
        return self.kind == "nla_model" and self.tokens.injection_left_neighbor_id is not None


@cache
def warn_once(message: str) -> None:
    """Warn, the first time alone: a checkpoint is described for the first plan, and again when all of it is there."""
    logger.warning(message)


def find_sidecar(places: Sequence[tuple[Path, Path | None]]) -> Path | None:
    """Find a checkpoint's sidecar: in a folder of its own, or else that of a run it is a step of, in a folder above.

    Args:
        places: its folders, those that come first first, each with its repository's, where to stop; None: a few
            levels up.

    Raises:
        CheckpointError: several that could be meant.
    """
    above = [place for folder, root in places for place in _above(folder, root)]
    own = (path for folder, _ in places if (path := _in(folder)) is not None)
    return next(own, next((place / SIDECAR for place in above if (place / SIDECAR).is_file()), None))


def read_sidecar(path: Path) -> Sidecar:
    """Read and check a sidecar.

    Raises:
        CheckpointError: not YAML, or fields that do not fit.
    """
    try:
        sidecar = Sidecar.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        raise CheckpointError(f"{path}: {_first_problem(error)}") from None
    if sidecar.schema_version not in (None, *KNOWN_SCHEMA_VERSIONS[sidecar.kind]):
        warn_once(
            f"{path} has schema_version {sidecar.schema_version}, which is not known here; all fields fit, going on"
        )
    return sidecar


def _in(folder: Path) -> Path | None:
    if (folder / SIDECAR).is_file():
        return folder / SIDECAR
    copies = sorted(folder.glob(f"*.{SIDECAR}"))
    if len(copies) > 1:
        names = ", ".join(path.name for path in copies)
        raise CheckpointError(f"{folder} has several sidecars, {names}: name the one that is meant {SIDECAR}")
    return copies[0] if copies else None


def _above(folder: Path, root: Path | None) -> list[Path]:
    if root is None:
        return list(folder.parents)[:LEVELS_UP]
    return [place for place in folder.parents if place.is_relative_to(root)]


def _refuse_unknown_injection(data: dict[str, Any]) -> None:
    """Refuse rules wherever they stand; numbers but in the sections that we read may be what somebody measured."""
    read = [data, *(data.get(name) for name in ("extraction", "tokens", "training"))]
    for section, key, value in _entries(data):
        known = key in INJECTION_KEYS or KNOWN_MODES.get(key) == value
        counts = value is not None if any(section is one for one in read) else isinstance(value, str | dict)
        if key.startswith("inject") and counts and not known:
            raise ValueError(f"`{key}: {value}` is a way of injection that nla-serve does not know")


def _refuse_preparations(data: dict[str, Any]) -> None:
    """Refuse what would have to be done to vectors before they are injected, or after they are rebuilt."""
    stated = [(key, value) for _, key, value in _entries(data) if "whiten" in key]
    stated += [(key, value) for key, value in _section(data, "extraction").items() if key in PREPARATIONS]
    for key, value in stated:
        if any(leaf not in (None, False, "false", *PLAIN) for leaf in _leaves(value)):
            raise ValueError(f"vectors of this pair are prepared by `{key}`, which nla-serve does not know")


def _leaves(value: object) -> Iterator[object]:
    if isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _leaves(one)
    else:
        yield value


def _entries(data: object) -> Iterator[tuple[object, str, object]]:
    """All names with the section that they stand in and what they name, however deep."""
    if isinstance(data, dict):
        for key, value in data.items():
            yield data, str(key), value
            yield from _entries(value)
    elif isinstance(data, list):
        for value in data:
            yield from _entries(value)


def _our_role(name: object) -> object:
    """A role's name in our spelling; what is none stays as it is."""
    return ROLES.get(name, name) if isinstance(name, str) else name


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


def _d_models(data: dict[str, Any]) -> Iterator[tuple[str, object]]:
    yield "d_model", data.get("d_model")
    yield "extraction.d_model", _section(data, "extraction").get("d_model")


def _layers(data: dict[str, Any]) -> Iterator[tuple[str, object]]:
    """Name the layer wherever trainers put it."""
    name = "extraction_layer_index"
    yield name, data.get(name)
    for key in RECONSTRUCTOR_SECTIONS:
        section = _section(data, key)
        yield f"{key}.{name}", section.get(name)
        blocks = section.get("num_hidden_layers")
        yield f"{key}.num_hidden_layers - 1", blocks - 1 if isinstance(blocks, int) else blocks
    extraction = _section(data, "extraction")
    for key in ("layer_index", "layer"):
        yield f"extraction.{key}", extraction.get(key)


def _section(data: dict[str, Any], key: str) -> dict[str, Any]:
    section = data.get(key)
    return section if isinstance(section, dict) else {}


def _one(what: str, found: Iterator[tuple[str, object]]) -> object:
    """Take the one value that is stated, wherever it is; two that differ are refused."""
    given = [(name, value) for name, value in found if value is not None]
    if any(value != given[0][1] for _, value in given):
        raise ValueError(f"the {what} differs: {' and '.join(f'`{name}` is {value}' for name, value in given)}")
    return given[0][1] if given else None


def _first_problem(error: ValidationError) -> str:
    problem = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in problem["loc"] if not str(part).startswith(("literal[", "constrained-")))
    message = str(problem["msg"]).removeprefix("Value error, ")
    return f"`{where}`: {message}" if where else message
