"""Our model in SGLang's registry, in the place of SGLang's own and under its name.

SGLang chooses many settings by a model's architecture, so that must stay what config.json says.
"""

import importlib
from pathlib import Path
from typing import Any, Final

from nla_engine.checkpoint import Checkpoint
from nla_engine.classes.decoder import Decoder
from nla_engine.classes.reconstructor import ReconstructorMixin
from nla_engine.classes.source import SourceMixin
from nla_engine.classes.verbalizer import VerbalizerMixin

MODELS: Final = "sglang.srt.models"
MIXINS: Final[dict[str, type[Decoder]]] = {"av": VerbalizerMixin, "ar": ReconstructorMixin, "source": SourceMixin}


def register_model(role: str, checkpoint: Checkpoint) -> None:
    """Make the class of a role's model, and have SGLang find it.

    Raises:
        ValueError: SGLang has no model of this architecture.
    """
    from sglang.srt.models.registry import ModelRegistry

    ModelRegistry.models[checkpoint.architecture] = model_class(role, checkpoint)


def model_class(role: str, checkpoint: Checkpoint) -> type:
    """Make the class: our mixin before SGLang's class, and named like that.

    Raises:
        ValueError: SGLang has no model of this architecture.
    """
    stock = stock_class(checkpoint.architecture)
    members = {"nla_checkpoint": checkpoint, "__module__": __name__, "__doc__": stock.__doc__}
    return type(checkpoint.architecture, (MIXINS[role], stock), members)


def stock_class(architecture: str) -> Any:
    """Import the one module of SGLang's that has this model.

    Raises:
        ValueError: none has.
    """
    for folder in importlib.import_module(MODELS).__path__:
        for file in sorted(Path(folder).glob("*.py")):
            if f"\nclass {architecture}(" in file.read_text(encoding="utf-8"):
                return getattr(importlib.import_module(f"{MODELS}.{file.stem}"), architecture)
    raise ValueError(f"this SGLang has no model of architecture {architecture}")
