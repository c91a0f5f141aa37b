"""Presets: YAML files that name a pair and what is known of it."""

from importlib.resources import files
from pathlib import Path
from typing import Final, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nla_launch.errors import LaunchError

DEFAULT: Final = "llama-3.3-70b-l53"


class Preset(BaseModel):
    """One pair.

    A checkpoint is a hub repository `owner/name`, a local folder, or `package:NAME/FOLDER` for one that ships
    inside an installed Python package.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    av: str | None = Field(description="Verbalizer checkpoint.")
    ar: str | None = Field(description="Reconstructor checkpoint.")
    base_model: str | None = None
    predict_mean_mse: float | None = Field(default=None, gt=0, description="Baseline of fve; without it fve is null.")
    device: Literal["auto", "cuda", "cpu"] = Field(default="auto", description="Where --device auto leaves it open.")
    attention_backend: str | None = Field(default=None, description="SGLang's, on GPUs; null lets SGLang choose.")


def preset_folder() -> Path:
    """Find the presets: inside the installed package, or at the top of a checkout."""
    installed = Path(str(files("nla_launch"))) / "configs"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "configs"


def known_presets() -> list[str]:
    """List the presets that come with nla-serve."""
    return sorted(path.stem for path in preset_folder().glob("*.yaml"))


def load_preset(name_or_file: str) -> Preset:
    """Load a preset by name or from a file.

    Raises:
        LaunchError: no such preset, or one that does not fit.
    """
    path = Path(name_or_file)
    if path.suffix not in (".yaml", ".yml"):
        path = preset_folder() / f"{name_or_file}.yaml"
    if not path.is_file():
        raise LaunchError(f"no preset {name_or_file!r}: known are {', '.join(known_presets())}, or give a .yaml file")
    try:
        return Preset.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise LaunchError(f"preset {path} is not YAML: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise LaunchError(f"preset {path}: {where}: {problem['msg']}") from None
