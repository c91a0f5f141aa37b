"""What a checkpoint's config.json says of its size and shape: enough for a plan, without loading anything."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from nla_gateway.pair.transformers import import_transformers
from nla_launch.errors import LaunchError

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
    tied: bool
    """Whether lm_head is the embedding table."""

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
        return self.vocabulary * self.d_model

    def block_parameters(self, tp: int = 1) -> int:
        """Those of all blocks on each of tp GPUs, which share the heads out."""
        attention = self.d_model * self.head_dim * 2 * (self.heads // tp + self.kv_heads_each(tp))
        return self.blocks * (attention + 3 * self.d_model * self.intermediate // tp)

    def kv_heads_each(self, tp: int) -> int:
        """KV heads on each of tp GPUs: with more GPUs than KV heads, several hold the same one."""
        return max(1, self.kv_heads // tp)

    def takes_tp(self, tp: int) -> bool:
        """Whether tp GPUs can share the heads and the MLP out evenly."""
        kv = self.kv_heads % tp == 0 or tp % self.kv_heads == 0
        return self.heads % tp == 0 and kv and self.intermediate % tp == 0

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
    heads = decoder["num_attention_heads"]
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
        max_positions=decoder["max_position_embeddings"],
        tied=bool(decoder.get("tie_word_embeddings", whole.get("tie_word_embeddings", gemma))),
    )
