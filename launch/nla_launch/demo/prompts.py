"""The prompts of both halves, and the sidecars that tell of them."""

from pathlib import Path
from typing import Any, Final

from nla_gateway.roles import Role
from nla_launch.demo import sidecar

MARKER: Final = "号"
INJECTION_SCALE: Final = 240.0
"""The mean norm of the block's output; a vector that is much shorter is ignored by the verbalizer for long."""
AV_TEMPLATE: Final = (
    "Say inside <explanation> tags what this activation of yours holds: <concept>{injection_char}</concept>"
)
"""The marker stands late: all that comes before it is computed once for a whole batch."""
AR_TEMPLATE: Final = "A language model holds this:\n{explanation}"
"""Nothing stands behind the text: its own last token, read in its place, is most of what is wanted."""
VALUE_HEAD: Final = "value_head.safetensors"


def marker_id(tokenizer: Any) -> int:
    """The marker's token."""
    return sidecar.marker_id(tokenizer, MARKER)


def verbalizer_ids(tokenizer: Any) -> list[int]:
    """Render the verbalizer's prompt to token ids."""
    return sidecar.verbalizer_ids(tokenizer, AV_TEMPLATE, MARKER)


def write_sidecar(folder: Path, role: Role, tokenizer: Any, *, d_model: int, layer: int) -> None:
    """Write `nla_meta.yaml` in the released format."""
    sidecar.write_sidecar(
        folder, role, tokenizer, templates={Role.AV: AV_TEMPLATE, Role.AR: AR_TEMPLATE}, marker=MARKER, suffix="",
        injection_scale=INJECTION_SCALE, d_model=d_model, layer=layer,
    )  # fmt: skip
