"""What a checkpoint's config.json says of its size and shape: enough for a plan, without loading anything."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from nla_gateway.pair.blocks import block_of
from nla_gateway.pair.transformers import import_transformers
from nla_launch.errors import LaunchError
from nla_launch.pair.heads import weight_heads
from nla_launch.pair.shards import NOT_OURS, Part, missing_files

BYTES: Final = {"bfloat16": 2, "float32": 4}
FIELDS: Final = {
    "model_type",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "vocab_size",
    "max_position_embeddings",
}
"""Where one is left out, it has its default."""


WINDOWED: Final = ("Gemma2", "Gemma3", "Olmo2")
"""What architectures begin with whose sliding windows SGLang computes."""
_FLOATS: Final = frozenset({"F64", "F32", "F16", "BF16"})


@dataclass(frozen=True)
class Stored:
    """How much the files of a checkpoint's weights hold."""

    values: tuple[int, ...]
    """Of each block, the numbers that an engine keeps in its own dtype."""
    packed: tuple[int, ...]
    """Of each block, the bytes of what is quantized, which stays so."""
    embeddings: int
    """Numbers in the embedding table."""


@dataclass(frozen=True)
class ModelConfig:
    """Shape of a decoder."""

    architecture: str
    d_model: int
    blocks: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    max_positions: int
    """Of a prompt with its answer; no more than a sliding window that SGLang's model has not."""
    tied: bool
    """Whether lm_head is the embedding table."""
    experts: int = 0
    """In each block; 0: it is a dense model."""
    expert_width: int = 0
    """Each expert's own `intermediate`."""
    changed: Mapping[str, Any] = field(default_factory=dict)
    """What is to be read instead of config.json's."""
    stored: Stored | None = None
    """What the files of its weights hold; None where nobody looked, or they are not there: then it is reckoned from
    the shape."""

    @property
    def parameters(self) -> int:
        """Number of parameters, small ones (norms, biases) left out."""
        return self.block_parameters() + self.embedding_parameters * (1 if self.tied else 2)

    @property
    def whole_embedding(self) -> bool:
        """Whether SGLang keeps all of the embedding table on each of several GPUs, and all of the logits."""
        return self.architecture.startswith("Gemma3")

    @property
    def embedding_parameters(self) -> int:
        """Those of the embedding table; lm_head has as many."""
        return self.vocabulary * self.d_model if self.stored is None else self.stored.embeddings

    def block_parameters(self, tp: int = 1) -> int:
        """Those of all blocks on each of tp GPUs, quantized ones left out."""
        return self._shared(sum(self.stored.values[: self.blocks]), tp) if self.stored else self._reckoned(tp)

    def packed_bytes(self, tp: int = 1) -> int:
        """Bytes of quantized parameters of all blocks on each of tp GPUs."""
        return self._shared(sum(self.stored.packed[: self.blocks]), tp) if self.stored else 0

    def _shared(self, total: int, tp: int) -> int:
        """Form each GPU's part of what all blocks have together, in the proportion that the shape gives."""
        return total if tp == 1 else total * self._reckoned(tp) // self._reckoned(1)

    def _reckoned(self, tp: int) -> int:
        """Reckon the blocks' parameters from the shape: the GPUs share heads and MLPs out, and all have the router."""
        attention = self.d_model * self.head_dim * 2 * (self.heads // tp + self.kv_heads_each(tp))
        width = self.experts * self.expert_width or self.intermediate
        return self.blocks * (attention + 3 * self.d_model * width // tp + self.d_model * self.experts)

    def kv_heads_each(self, tp: int) -> int:
        """KV heads on each of tp GPUs: with more GPUs than KV heads, several hold the same one."""
        return max(1, self.kv_heads // tp)

    def takes_tp(self, tp: int) -> bool:
        """Whether tp GPUs can share the heads and the MLP out evenly."""
        kv = self.kv_heads % tp == 0 or tp % self.kv_heads == 0
        return self.heads % tp == 0 and kv and self.intermediate % tp == 0 and self.expert_width % tp == 0

    def kv_bytes_per_token(self, dtype: str, tp: int = 1) -> int:
        """Bytes that the KV cache takes for one token on each of tp GPUs."""
        return 2 * self.blocks * self.kv_heads_each(tp) * self.head_dim * BYTES[dtype]


def read_config(folder: Path, *, trust_remote_code: bool = False) -> ModelConfig:
    """Read config.json.

    Args:
        folder: the checkpoint's.
        trust_remote_code: run the checkpoint's own Python code where config.json asks for it.

    Raises:
        LaunchError: it is missing, not JSON, or lacks a field.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise LaunchError(f"{folder} has no config.json: is it a checkpoint folder?")
    try:
        whole = json.loads(path.read_text(encoding="utf-8"))
        decoder = whole.get("text_config", whole)
        if not decoder.keys() >= FIELDS or (decoder["model_type"].startswith("gemma") and "head_dim" not in decoder):
            decoder = _with_defaults(folder, trust_remote_code=trust_remote_code)
        return _model_config(whole, decoder)
    except (ValueError, AttributeError):
        raise LaunchError(f"{path} is not a JSON object") from None
    except (KeyError, IndexError, TypeError) as error:
        raise LaunchError(f"{path} lacks {error}: is it the config of a supported model?") from None


def read_stored(folder: Path, blocks: int) -> Stored | None:
    """Count what a checkpoint's files hold of its first blocks, by their heads; None where some of it is not there.

    Raises:
        LaunchError: a file is no file of safetensors.
    """
    if missing_files(folder, Part(blocks)):
        return None
    values, packed, embeddings = [0] * blocks, [0] * blocks, 0
    for name, head in weight_heads(folder, missing_ok=True):
        block = block_of(name)
        if NOT_OURS.search(name):
            continue
        if block is not None and block < blocks:
            if head.dtype in _FLOATS:
                values[block] += head.values
            else:
                packed[block] += head.size
        elif name.endswith(("embed_tokens.weight", "wte.weight", "embeddings.weight")):
            embeddings += head.values
    whole = embeddings and all(map(sum, zip(values, packed, strict=True)))
    return Stored(tuple(values), tuple(packed), embeddings) if whole else None


def _with_defaults(folder: Path, *, trust_remote_code: bool) -> dict[str, Any]:
    """Have transformers fill in what config.json leaves out; it takes seconds to import."""
    transformers = import_transformers(torch=trust_remote_code)
    try:
        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
        decoder: dict[str, Any] = config.get_text_config().to_dict()
    except Exception as error:  # transformers raises whatever the file made it trip over
        if "trust_remote_code" in str(error):
            mend = "give --trust-remote-code if you trust it"
            raise LaunchError(f"{folder}: config.json asks for Python code of the checkpoint's own: {mend}") from None
        reason = " ".join(str(error).split())[:200]
        raise LaunchError(f"{folder}/config.json is not the config of a supported model: {reason}") from None
    return decoder


def _model_config(whole: dict[str, Any], decoder: dict[str, Any]) -> ModelConfig:
    heads, experts = decoder["num_attention_heads"], _experts(decoder)
    gemma = decoder["model_type"].startswith("gemma")
    return ModelConfig(
        architecture=whole["architectures"][0],
        d_model=decoder["hidden_size"],
        blocks=decoder["num_hidden_layers"],
        heads=heads,
        kv_heads=decoder.get("num_key_value_heads", heads),
        head_dim=decoder.get("head_dim") or decoder["hidden_size"] // heads,
        intermediate=decoder["intermediate_size"],
        vocabulary=decoder["vocab_size"],
        max_positions=min(decoder["max_position_embeddings"], _window(whole["architectures"][0], decoder)),
        tied=bool(decoder.get("tie_word_embeddings", whole.get("tie_word_embeddings", gemma))),
        experts=experts,
        expert_width=(decoder.get("moe_intermediate_size") or decoder["intermediate_size"]) if experts else 0,
    )


def _experts(decoder: dict[str, Any]) -> int:
    """Count a block's experts, under any of their names; some blocks of a model may have none."""
    return max(int(decoder.get(name) or 0) for name in ("num_experts", "num_local_experts", "n_routed_experts"))


def _window(architecture: str, decoder: dict[str, Any]) -> int:
    """Tell within how many tokens a model's sliding windows make no difference, where SGLang's has none."""
    window = decoder.get("sliding_window")
    if window is None or not decoder.get("use_sliding_window", True) or architecture.startswith(WINDOWED):
        return int(decoder["max_position_embeddings"])
    return int(window)
