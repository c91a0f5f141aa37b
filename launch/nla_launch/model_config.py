"""What a checkpoint's config.json says of its size and shape: enough for a plan, without loading anything."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from nla_launch.errors import LaunchError

BYTES: Final = {"bfloat16": 2, "float32": 4}


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

    @property
    def parameters(self) -> int:
        """Number of parameters, small ones (norms, biases) left out."""
        attention = self.d_model * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        embeddings = self.vocabulary * self.d_model * (1 if self.tied else 2)
        return self.blocks * (attention + 3 * self.d_model * self.intermediate) + embeddings

    def kv_bytes_per_token(self, dtype: str) -> int:
        """Bytes that the KV cache takes for one token, over all GPUs."""
        return 2 * self.blocks * self.kv_heads * self.head_dim * BYTES[dtype]


def read_config(folder: Path) -> ModelConfig:
    """Read config.json.

    Raises:
        LaunchError: it is missing, not JSON, or lacks a field.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise LaunchError(f"{folder} has no config.json: is it a checkpoint folder?")
    try:
        outer = json.loads(path.read_text(encoding="utf-8"))
        inner: dict[str, Any] = outer.get("text_config", outer)
        heads = inner["num_attention_heads"]
        return ModelConfig(
            architecture=outer["architectures"][0],
            d_model=inner["hidden_size"],
            blocks=inner["num_hidden_layers"],
            heads=heads,
            kv_heads=inner.get("num_key_value_heads", heads),
            head_dim=inner.get("head_dim") or inner["hidden_size"] // heads,
            intermediate=inner["intermediate_size"],
            vocabulary=inner["vocab_size"],
            max_positions=inner["max_position_embeddings"],
            tied=bool(inner.get("tie_word_embeddings", outer.get("tie_word_embeddings", False))),
        )
    except ValueError:
        raise LaunchError(f"{path} is not JSON") from None
    except (KeyError, IndexError, TypeError) as error:
        raise LaunchError(f"{path} lacks {error}: is it the config of a supported model?") from None
