"""What the engine is told to serve: one environment variable, JSON, set by nla-serve beside the role."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Self

from pydantic import BaseModel, ConfigDict

VARIABLE: Final = "NLA_ENGINE_CHECKPOINT"


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Injection(_Frozen):
    """How a vector v gets into the verbalizer, at its place in the prompt.

    `replace`: it stands for the embedding. `add_after_block`: to the output h of a block is added |h| v/|v|.
    """

    rule: Literal["replace", "add_after_block"]
    block: int = 0
    """Index from 0, of the rule that adds."""


class ValueHead(_Frozen):
    """Where the reconstructor's linear head is."""

    file: Path
    weight: str
    """The key of the matrix [d_model, d_model] in the file."""
    bias: str | None = None
    """The key of the bias [d_model]."""


@dataclass(frozen=True)
class Given:
    """An adapter as the launcher gives it."""

    path: Path
    """Its folder, or a reconstructor's single file."""
    use_rslora: bool | None = None
    """Stated beside it, where its own files do not say."""


class Checkpoint(_Frozen):
    """A checkpoint as it is to be served; fields of the other role have their defaults."""

    architecture: str
    """SGLang's class: the first of config.json's architectures, or the text class of a multimodal wrapper."""
    injection: Injection = Injection(rule="replace")
    blocks: int | None = None
    """So many of the model's blocks make the reconstructor; None: all that config.json says."""
    final_norm: bool = False
    """Whether the model's final norm stays, before the head."""
    value_head: ValueHead | None = None
    """None: the vector is the last block's output itself."""
    files: tuple[str, ...] | None = None
    """Names of those files of weights that hold what the blocks need; None: SGLang's choice of what is there."""
    adapters: tuple[Given, ...] = ()
    """Merged into the weights, one upon the other."""

    @classmethod
    def told(cls) -> Self:
        """Read the variable.

        Raises:
            KeyError: it is not set.
            pydantic.ValidationError: it is not what this class says.
        """
        return cls.model_validate_json(os.environ[VARIABLE])
