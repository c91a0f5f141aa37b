"""The prompts of both halves, and the sidecars that tell of them."""

from pathlib import Path
from typing import Any, Final

import yaml

from nla_gateway.roles import Role

MARKER: Final = "号"
INJECTION_SCALE: Final = 240.0
"""The mean norm of the block's output; a vector that is much shorter is ignored by the verbalizer for long."""
AV_TEMPLATE: Final = (
    "One of your own activations stands in the place of a word: <concept>{injection_char}</concept>\n"
    "Say what it holds, inside <explanation> tags."
)
AR_TEMPLATE: Final = "Summary of the following text: <text>{explanation}</text> <summary>"
SUFFIX: Final = "text> <summary>"
VALUE_HEAD: Final = "value_head.safetensors"


def marker_id(tokenizer: Any) -> int:
    """The marker's token: in a byte-level vocabulary it has another name than its text."""
    (token,) = tokenizer(MARKER, add_special_tokens=False)["input_ids"]
    found: int = token
    return found


def verbalizer_ids(tokenizer: Any) -> list[int]:
    """Render the verbalizer's prompt to token ids."""
    chat = [{"role": "user", "content": AV_TEMPLATE.format(injection_char=MARKER)}]
    text = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def write_sidecar(folder: Path, role: Role, tokenizer: Any, *, d_model: int, layer: int) -> None:
    """Write `nla_meta.yaml` in the released format."""
    ids, marker = verbalizer_ids(tokenizer), marker_id(tokenizer)
    at = ids.index(marker)
    sidecar = {
        "schema_version": 2,
        "kind": "nla_model",
        "role": role.value,
        "d_model": d_model,
        "extraction_layer_index": layer,
        "extraction": {"injection_scale": INJECTION_SCALE, "mse_scale": d_model**0.5},
        "tokens": {
            "injection_char": MARKER,
            "injection_token_id": marker,
            "injection_left_neighbor_id": ids[at - 1],
            "injection_right_neighbor_id": ids[at + 1],
            "critic_suffix_ids": tokenizer(SUFFIX, add_special_tokens=False)["input_ids"],
        },
        "prompt_templates": {Role.AV.value: AV_TEMPLATE, Role.AR.value: AR_TEMPLATE},
    }
    text = yaml.safe_dump(sidecar, allow_unicode=True, sort_keys=False)
    (folder / "nla_meta.yaml").write_text(text, encoding="utf-8")
