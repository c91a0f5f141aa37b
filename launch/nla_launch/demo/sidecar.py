"""The verbalizer's prompt, and the sidecars that tell of both halves, in the released format."""

from pathlib import Path
from typing import Any

import yaml

from nla_gateway.roles import Role


def verbalizer_ids(tokenizer: Any, template: str, marker: str) -> list[int]:
    """Render the verbalizer's prompt to token ids."""
    chat = [{"role": "user", "content": template.replace("{injection_char}", marker)}]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    return list(tokenizer.encode(text, add_special_tokens=False))


def marker_id(tokenizer: Any, marker: str) -> int:
    """The marker's token: in a byte-level vocabulary it may have another name than its text."""
    (found,) = tokenizer.encode(marker, add_special_tokens=False)
    token: int = found
    return token


def write_sidecar(
    folder: Path, role: Role, tokenizer: Any, *,
    templates: dict[Role, str], marker: str, suffix: str, injection_scale: float, d_model: int, layer: int,
) -> None:  # fmt: skip
    """Write `nla_meta.yaml`, with the ids that the tokenizer makes of the prompts."""
    ids, token = verbalizer_ids(tokenizer, templates[Role.AV], marker), marker_id(tokenizer, marker)
    at = ids.index(token)
    sidecar = {
        "schema_version": 2,
        "kind": "nla_model",
        "role": role.value,
        "d_model": d_model,
        "extraction_layer_index": layer,
        "extraction": {"injection_scale": injection_scale, "mse_scale": d_model**0.5},
        "tokens": {
            "injection_char": marker,
            "injection_token_id": token,
            "injection_left_neighbor_id": ids[at - 1],
            "injection_right_neighbor_id": ids[at + 1],
            "critic_suffix_ids": tokenizer.encode(suffix, add_special_tokens=False) if suffix else [],
        },
        "prompt_templates": {role.value: template for role, template in templates.items()},
    }
    text = yaml.safe_dump(sidecar, allow_unicode=True, sort_keys=False)
    (folder / "nla_meta.yaml").write_text(text, encoding="utf-8")
