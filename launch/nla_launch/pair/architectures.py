"""The architectures that are supported, and the classes that SGLang runs for them."""

import importlib.util
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from nla_gateway.roles import Role
from nla_launch.errors import LaunchError
from nla_launch.pair.checkpoints import Checkpoint
from nla_launch.pair.model_config import ModelConfig
from nla_launch.pair.sidecar import warn_once

SUPPORTED: Final = (
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
    "Qwen3MoeForCausalLM",
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Phi3ForCausalLM",
    "Gemma2ForCausalLM",
    "Gemma3ForCausalLM",
    "Olmo2ForCausalLM",
    "Glm4ForCausalLM",
)
"""Run in both roles, and equal to transformers."""
WRAPPERS: Final = {"Gemma3ForConditionalGeneration": "Gemma3ForCausalLM"}
"""Multimodal wrappers, with the class of their language model, which runs alone."""
STATEFUL: Final = "it keeps a state beside keys and values, which was never tried"
UNTRIED: Final = {
    "Qwen3_5": STATEFUL,
    "Qwen3Next": STATEFUL,
    "KimiLinear": STATEFUL,
    "JetNemotron": STATEFUL,
    "NemotronH": "SGLang calls its blocks in a way that no vector gets in",
    "Gemma4": "its embeddings in each block and its shared keys were never tried",
}
"""What architectures begin with that only seem to fit, with the reason why they are refused."""
CAPPED: Final = ("Gemma2ForCausalLM",)
"""Those that keep attention's scores below a cap, of which not every attention backend takes notice."""
LOSE_THE_CAP: Final = ("torch_native", "flex_attention", "trtllm_mha")
"""Attention backends of SGLang's that leave such a cap out and say nothing."""
TAKE_FLOAT32: Final = ("triton", "torch_native")
"""Attention backends on GPUs."""
BACKEND_OPTIONS: Final = tuple(f"--{which}attention-backend" for which in ("", "prefill-", "decode-"))
WIDEST_PLAIN_HEAD: Final = 128
"""The largest head_dim that every attention backend takes."""


def model_class(architecture: str) -> str:
    """Name SGLang's class for the language model of an architecture."""
    return WRAPPERS.get(architecture, architecture)


def is_untried(architecture: str) -> bool:
    """Tell whether a model of it was never run here."""
    return model_class(architecture) not in SUPPORTED


def override(architecture: str) -> dict[str, Any]:
    """Form what SGLang is to read instead of config.json's."""
    if architecture not in WRAPPERS:
        return {}
    return {"architectures": [WRAPPERS[architecture]], "language_model_only": True}


def check_architecture(role: Role, checkpoint: Checkpoint, config: ModelConfig) -> None:
    """Warn of an architecture that was never run, and refuse one that cannot be.

    Raises:
        LaunchError: SGLang has no model of it, or one of another form than those that our classes go with.
    """
    if not is_untried(config.architecture):
        return
    problem = misfit(model_class(config.architecture))
    if problem is not None:
        raise LaunchError(
            f"{checkpoint.source}: a {role.label} of architecture {config.architecture} is not supported:"
            f" {problem}; supported are {', '.join([*SUPPORTED, *WRAPPERS])}"
        )
    warn_once(
        f"{checkpoint.source}: architecture {config.architecture} was never tried with nla-serve, only looked at:"
        f" compare some of the {role.label}'s answers with transformers before you trust them"
    )


@cache
def misfit(architecture: str) -> str | None:
    """Tell by SGLang's source why a model does not go with our classes; None where it seems to.

    The engine looks again, at the model itself.
    """
    for beginning, reason in UNTRIED.items():
        if architecture.startswith(beginning):
            return reason
    if not architecture.endswith("ForCausalLM"):
        return "it is no plain language model"
    source = _source_of(architecture)
    if source is None:
        return "SGLang has no such model"
    missing = [sign for sign in ("input_embeds", "hidden_states", "self.layers", "self.norm") if sign not in source]
    return f"SGLang's model is of another form (no {', '.join(missing)})" if missing else None


def _source_of(architecture: str) -> str | None:
    """Read the file of SGLang's that has a model, with those of SGLang's models that it imports."""
    sglang = importlib.util.find_spec("sglang")
    if sglang is None or not sglang.submodule_search_locations:
        return None
    folder = Path(sglang.submodule_search_locations[0]) / "srt" / "models"
    texts = {file.stem: file.read_text(encoding="utf-8") for file in folder.glob("*.py")}
    found = next((text for text in texts.values() if f"\nclass {architecture}(" in text), None)
    if found is None:
        return None
    return found + "".join(text for stem, text in texts.items() if f"from sglang.srt.models.{stem} import" in found)


def attention_backend(
    config: ModelConfig | None, dtype: str, device: str, capability: tuple[int, int] | None
) -> str | None:
    """Choose SGLang's attention backend where its own choice would not do; None leaves it to SGLang.

    Wide heads (Gemma's 256) and capped scores are known to work in FlashAttention 3, on Hopper, and in FlashInfer
    elsewhere. SGLang's own choice on Blackwell, trtllm_mha, promises nothing for the former and leaves the latter out.
    Neither takes float32, which Triton does.
    """
    if device == "cuda" and dtype == "float32":
        return TAKE_FLOAT32[0]
    if config is None or capability is None:
        return None
    if config.head_dim <= WIDEST_PLAIN_HEAD and config.architecture not in CAPPED:
        return None
    return "fa3" if capability[0] == 9 else "flashinfer"


def check_backend(checkpoint: Checkpoint, config: ModelConfig, named: Iterable[str], *, float32: bool) -> None:
    """Refuse an attention backend with which a model would compute something else, or would not run.

    Args:
        checkpoint: what is served.
        config: its shape.
        named: backends that a preset names.
        float32: whether it runs in float32 on a GPU.

    Raises:
        LaunchError: it leaves out the model's cap on attention's scores, or takes no float32.
    """
    for backend in named:
        if float32 and backend not in TAKE_FLOAT32:
            raise LaunchError(
                f"{checkpoint.source}: attention backend {backend} takes no float32: take {' or '.join(TAKE_FLOAT32)},"
                " leave the choice to nla-serve, or serve bfloat16"
            )
        if config.architecture in CAPPED and backend in LOSE_THE_CAP:
            raise LaunchError(
                f"{checkpoint.source}: attention backend {backend} leaves out the cap on attention's scores that"
                f" {config.architecture} has, and its answers would be wrong: take fa3 (on Hopper), flashinfer or"
                " triton, or leave the choice to nla-serve"
            )


def backends_in(arguments: Sequence[str]) -> Iterator[str]:
    """Find the attention backends among SGLang's arguments, also under the shortened names that it takes."""
    for word, following in pairwise([*arguments, ""]):
        name, equals, value = word.partition("=")
        if len(name) > 2 and any(option.startswith(name) for option in BACKEND_OPTIONS):
            yield value if equals else following
