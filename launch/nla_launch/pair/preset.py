"""Presets: YAML files that name a pair and what is known of it."""

from importlib.resources import files
from pathlib import Path
from typing import Final, Literal, Self

from pydantic import Field, field_validator, model_validator

from nla_gateway.roles import Role
from nla_launch.errors import LaunchError
from nla_launch.pair.rules import Rules
from nla_launch.pair.sources import Source
from nla_launch.yaml_files import read_yaml

DEFAULT: Final = "llama-3.3-70b-l53"
ALIASES: Final = {"demo": "smollm2-135m-l20"}
BASE: Final = "base"
"""As a source: the preset's `base_model`."""
NONE: Final = "none"
"""As a source: there is none."""
FIXED_ARGUMENTS: Final = {
    **dict.fromkeys(("--model-path", "--served-model-name"), "checkpoints are given by `av`, `ar` and `source`"),
    **dict.fromkeys(("--host", "--port", "--api-key"), "nla-serve chooses where engines listen, and their keys"),
    **dict.fromkeys(("--tp-size", "--tensor-parallel-size"), "use nla-serve's --tp"),
    **dict.fromkeys(("--dp-size", "--data-parallel-size"), "use nla-serve's --dp"),
    **dict.fromkeys(("--base-gpu-id", "--gpu-id-step"), "use nla-serve's --gpus, or --av-gpus and the like"),
    **dict.fromkeys(
        ("--dtype", "--device", "--quantization", "--trust-remote-code", "--nnodes", "--node-rank", "--dist-init-addr"),
        "use nla-serve's flag of that name",
    ),
    "--nccl-init-addr": "use nla-serve's --dist-init-addr",
    "--max-running-requests": "use nla-serve's --concurrency, which the gateway follows too",
    **dict.fromkeys(("--pp-size", "--pipeline-parallel-size"), "no GPUs are planned for it: use nla-serve's --tp"),
    "--disaggregation-mode": "a verbalizer split in two would lose its vectors on the way",
    "--context-length": "the gateway's limits are made for the planned one",
    "--is-embedding": "the reconstructor and the source always are, the verbalizer never",
    "--json-model-override-args": "it selects the classes that inject, reconstruct and extract",
    "--skip-tokenizer-init": "without a tokenizer no sample stops at its closing tag",
    "--sampling-backend": "only SGLang's pytorch sampler takes a seed for each request",
    "--incremental-streaming-output": "the gateway reads the text so far, not its last piece",
    "--admin-api-key": "the gateway could no longer end requests whose callers have gone",
    "--tokenizer-worker-num": "SGLang's tokenizer workers serve no engine that has an API key, as ours have",
    **dict.fromkeys(
        ("--lora-paths", "--enable-lora"),
        "SGLang ignores use_rslora: give `av` or `ar` as {base: ..., adapters: [...]}",
    ),
    "--config": "give its arguments themselves, so that they can be checked",
    "--speculative-algorithm": "draft models do not see injected vectors",
}
"""SGLang arguments that a preset may not set, each with the reason."""
CHUNKS: Final = "of a text read in parts only the last part's rows would come, without a word"
FIXED_OF_SOURCE: Final = dict.fromkeys(("--chunked-prefill-size", "--enable-mixed-chunk"), CHUNKS)
"""Further ones, of a source's engine."""


class Preset(Rules):
    """One pair, with what is stated of its use over what its sidecars say.

    A checkpoint is a folder on the hub `owner/name[@revision][:folder]`, a local folder, `package:NAME/FOLDER` for
    one that ships inside an installed Python package, or `demo:NAME` for one that is made at the first start.
    """

    name: str = Field(min_length=1)
    av: Source | None = Field(description="Verbalizer checkpoint, or {base: ..., adapters: [...]}.")
    ar: Source | None = Field(description="Reconstructor checkpoint, or the same.")
    source: str | None = Field(
        default=None, description=f"Model that texts are read by; `{BASE}`: base_model; null or `{NONE}`: none."
    )
    base_model: str | None = None
    base_checkpoint: str | None = Field(default=None, description="Where base_model is, if not on the hub by its name.")
    predict_mean_mse: float | None = Field(default=None, gt=0, description="Baseline of fve; without it fve is null.")
    device: Literal["auto", "cuda", "cpu"] = Field(default="auto", description="Where --device auto leaves it open.")
    attention_backend: str | None = Field(
        default=None,
        description="SGLang's, on GPUs; null: SGLang's choice, or one that takes wide heads.",
    )
    engine_args: dict[Role, list[str]] = Field(
        default={}, description="Further SGLang arguments of each engine, after those of the plan, which they override."
    )

    @property
    def base(self) -> str | None:
        """The base model's checkpoint."""
        return self.base_checkpoint or self.base_model

    @property
    def sources(self) -> dict[Role, Source]:
        """Its checkpoints by role, those that there are."""
        found = {role: source for role in Role if (source := getattr(self, role)) is not None}
        if self.source == BASE and self.base is not None:
            found[Role.SOURCE] = self.base
        return found

    @field_validator("source")
    @classmethod
    def _none_is_none(cls, source: str | None) -> str | None:
        """`none` is a word in YAML."""
        return None if source == NONE else source

    @model_validator(mode="after")
    def _knows_its_base(self) -> Self:
        if self.source == BASE and self.base_model is None:
            raise ValueError("`source: base` needs `base_model`, which is not there")
        return self

    @field_validator("engine_args")
    @classmethod
    def _leave_ours_alone(cls, arguments: dict[Role, list[str]]) -> dict[Role, list[str]]:
        """Refuse what would break injection or the gateway, also under the shortened names that SGLang takes."""
        for role, words in arguments.items():
            fixed = FIXED_ARGUMENTS | (FIXED_OF_SOURCE if role is Role.SOURCE else {})
            for name in (word.split("=")[0] for word in words if word.startswith("--")):
                taken = next((ours for ours in fixed if ours.startswith(name)), None)
                if taken is not None:
                    raise ValueError(f"{name}: {fixed[taken]}")
        return arguments


def preset_folder() -> Path:
    """Find the presets: inside the installed package, or at the top of a checkout."""
    installed = Path(str(files("nla_launch"))) / "configs"
    return installed if installed.is_dir() else Path(__file__).parents[3] / "configs"


def known_presets() -> list[str]:
    """List the presets that come with nla-serve."""
    return sorted([*(path.stem for path in preset_folder().glob("*.yaml")), *ALIASES])


def load_preset(name_or_file: str) -> Preset:
    """Load a preset by name or from a file.

    Raises:
        LaunchError: no such preset, or one that does not fit.
    """
    path = Path(name_or_file)
    if path.suffix not in (".yaml", ".yml"):
        path = preset_folder() / f"{ALIASES.get(name_or_file, name_or_file)}.yaml"
    if not path.is_file():
        raise LaunchError(f"no preset {name_or_file!r}: known are {', '.join(known_presets())}, or give a .yaml file")
    return read_yaml(path, "preset", Preset)
