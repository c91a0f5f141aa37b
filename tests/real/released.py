"""What the released pairs have in their sidecars: templates, markers, and the ids that real tokenizers make of them.

The templates are those of the reference's docs/inference.md, the ids those of the released sidecars.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml

from nla_gateway.pair.prompt import ReconstructorPrompt, VerbalizerPrompt
from nla_gateway.roles import Role
from nla_launch.pair.rules import NO_RULES, ReconstructorRules, Rules
from tests.descriptions import described

AV_TEMPLATE: Final = (
    "You are a meticulous AI researcher conducting an important investigation into activation vectors from a language"
    " model. Your overall task is to describe the semantic content of that activation vector.\n\n"
    "We will pass the vector enclosed in <concept> tags into your context. You must then produce an explanation for the"
    " vector, enclosed within <explanation> tags. The explanation consists of 2-3 text snippets describing that vector."
    "\n\nHere is the vector:\n\n<concept>{injection_char}</concept>\n\nPlease provide an explanation."
)
AR_TEMPLATE: Final = "Summary of the following text: <text>{explanation}</text> <summary>"


SHAPE: Final = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "head_dim": 16,
    "intermediate_size": 128,
    "vocab_size": 300_000,
    "max_position_embeddings": 1024,
}
"""Of a checkpoint of which only the prompts matter."""
WITHOUT_HEAD: Final = Rules(reconstructor=ReconstructorRules(value_head="none"))


@dataclass(frozen=True)
class Ids:
    """A marker, and ids that the sidecar says of it and of the end of the reconstructor's prompt."""

    marker: str
    marker_id: int
    left: int
    right: int
    suffix: tuple[int, ...]


QWEN: Final = Ids("㈎", 149705, 29, 522, (1318, 29, 366, 1708, 29))
GEMMA: Final = Ids("㈜", 246566, 236813, 954, (1005, 236813, 655, 6011, 236813))
LLAMA: Final = Ids("㎡", 105565, 29, 524, (1342, 29, 366, 1743, 29))


def write_sidecar(folder: Path, role: str, ids: Ids, *, d_model: int, layer: int, scale: float) -> None:
    """Write a sidecar as those of the released pairs."""
    sidecar = {
        "schema_version": 2,
        "kind": "nla_model",
        "role": role,
        "d_model": d_model,
        "extraction_layer_index": layer,
        "extraction": {"injection_scale": scale, "mse_scale": d_model**0.5},
        "tokens": {
            "injection_char": ids.marker,
            "injection_token_id": ids.marker_id,
            "injection_left_neighbor_id": ids.left,
            "injection_right_neighbor_id": ids.right,
            "critic_suffix_ids": list(ids.suffix),
        },
        "prompt_templates": {"av": AV_TEMPLATE, "ar": AR_TEMPLATE},
    }
    (folder / "nla_meta.yaml").write_text(yaml.safe_dump(sidecar, allow_unicode=True))


def bare_checkpoint(folder: Path, tokenizer: Path, model_type: str, ids: Ids, role: str = "av") -> Path:
    """Make a checkpoint's folder without weights: a real tokenizer, its architecture's name, a sidecar."""
    folder.mkdir()
    for path in tokenizer.glob("tokenizer*.json"):
        (folder / path.name).symlink_to(path)
    (folder / "config.json").write_text(json.dumps(SHAPE | {"model_type": model_type}))
    write_sidecar(folder, role, ids, d_model=64, layer=1, scale=150.0)
    return folder


def verbalizer_prompt(folder: Path, rules: Rules = NO_RULES) -> VerbalizerPrompt:
    """Load it as nla-serve does, with what a preset states."""
    return VerbalizerPrompt.load(folder, described(Role.AV, folder, rules))


def reconstructor_prompt(folder: Path) -> ReconstructorPrompt:
    """Load it as nla-serve does."""
    return ReconstructorPrompt.load(folder, described(Role.AR, folder, WITHOUT_HEAD))
