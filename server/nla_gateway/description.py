"""How one checkpoint is to be used, as one frozen model.

The launcher makes it once, out of sidecar and preset; gateways and engines are told it. Nothing here reads files.
"""

import itertools
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from nla_gateway.errors import CheckpointError
from nla_gateway.roles import Role

Tags = Literal["both", "closing", "none"]
PromptKind = Literal["chat", "plain"]
REPLACE: Final = "replace"
ADD: Final = "add_after_block"


class Origin(StrEnum):
    """Who stated a value; fingerprints depend on them."""

    PRESET = "preset"
    SIDECAR = "sidecar"
    ABOVE = "sidecar of a folder above"
    DEFAULT = "default"
    """What this form of sidecar always means."""
    TEMPLATE = "template"
    CONFIG = "config.json"
    META = "ar_meta.json"
    WEIGHTS = "weights"
    FROM_LAYER = "layer + 1"
    OTHER = "the reconstructor's sidecar"
    ASSUMED = "assumed, for the weights are not here"


OF_FILES: Final = frozenset(Origin) - {Origin.PRESET, Origin.ABOVE}
"""Origins of what the files of a pair's checkpoints say themselves."""
P = TypeVar("P")


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Marker(_Frozen):
    """The token at whose place a vector gets in."""

    char: str = Field(min_length=1)
    token_id: int
    left: int | None = Field(default=None, description="The token before it; null: not stated.")
    right: int | None = Field(default=None, description="The token after it.")


class Injection(_Frozen):
    """How a vector v gets into the verbalizer.

    `replace`: the marker's embedding becomes v, scaled. `add_after_block`: to the output h of a block, at the marker,
    |h| v/|v| is added.
    """

    rule: Literal["replace", "add_after_block"]
    block: int | None = Field(default=None, ge=0, description="Of the rule that adds, from 0.")
    scale: float | None = Field(default=None, gt=0, description="Norm that v gets before it replaces; null: as it is.")


class VerbalizerDescription(_Frozen):
    """What only a verbalizer has."""

    injection: Injection
    prompt: PromptKind = Field(description="Through the chat template, or plain, with the tokenizer's own specials.")
    enable_thinking: bool | None = Field(default=None, description="Given to the chat template; null: not given.")
    append_to_turn: str = Field(default="", description="Behind the template's text, in the user's turn.")
    append: str = Field(default="", description="Behind the whole prompt: the answer begins after it.")
    tags: Tags = Field(description="What of the explanation tags an answer has.")
    max_tokens: int | None = Field(default=None, gt=0, description="The most tokens that an answer ever gets.")
    complete_at_limit: bool = Field(default=False, description="Whether an answer of so many tokens is complete.")


class ValueHead(_Frozen):
    """A linear map in a file of safetensors."""

    file: Path
    weight: str = Field(description="Key of the matrix [d_model, d_model].")
    bias: str | None = Field(default=None, description="Key of the bias [d_model].")


class ReconstructorDescription(_Frozen):
    """What only a reconstructor has. The vector is read at the last token."""

    blocks: int = Field(gt=0, description="The base model's first ones.")
    final_norm: bool = Field(description="Whether the base's final norm stands before the head.")
    value_head: ValueHead | None = Field(description="null: the last block's output is the vector.")
    add_special_tokens: bool | None = Field(description="null: not stated, and must make no difference.")
    suffix_ids: tuple[int, ...] = Field(default=(), description="Token ids that every prompt ends with.")


class SourceDescription(_Frozen):
    """What only a source model has: it is run up to the pair's layer, and read there."""

    blocks: int = Field(gt=0, description="The first ones: layer + 1.")


class Description(_Frozen):
    """One checkpoint as it is to be used."""

    role: Role
    d_model: int = Field(gt=0)
    layer: int | None = Field(ge=0, description="Whose output the vectors are; null: a verbalizer that states none.")
    template: str = Field(default="", description="The prompt, for `str.format`; a source has none.")
    marker: Marker | None = None
    mse_scale: float | None = Field(
        default=None, gt=0, description="Norm that vectors are scored at; null: scores make no sense."
    )
    verbalizer: VerbalizerDescription | None = None
    reconstructor: ReconstructorDescription | None = None
    source: SourceDescription | None = None
    origin: dict[str, Origin] = Field(default={}, description="By field, such as `verbalizer.tags`: who stated it.")

    @property
    def injection_scale(self) -> float | None:
        """Norm that an injected vector gets; None: none, or as it is."""
        return None if self.verbalizer is None else self.verbalizer.injection.scale

    @property
    def stated(self) -> str:
        """All of it, where it says more than the checkpoint's own files, as a preset may; else nothing."""
        if set(self.origin.values()) <= OF_FILES:
            return ""
        return self.model_dump_json(exclude={"origin": True, "reconstructor": {"value_head": {"file"}}})

    def of_verbalizer(self) -> VerbalizerDescription:
        """Return a verbalizer's own part.

        Raises:
            CheckpointError: it is none.
        """
        return self._own(self.verbalizer, Role.AV)

    def of_reconstructor(self) -> ReconstructorDescription:
        """Return a reconstructor's own part.

        Raises:
            CheckpointError: it is none.
        """
        return self._own(self.reconstructor, Role.AR)

    def of_source(self) -> SourceDescription:
        """Return a source's own part.

        Raises:
            CheckpointError: it is none.
        """
        return self._own(self.source, Role.SOURCE)

    def _own(self, part: P | None, meant: Role) -> P:
        if part is None:
            raise CheckpointError(f"a {self.role.label} is described, where a {meant.label} is meant")
        return part


VERBS: Final = {Role.AV: "reads", Role.AR: "rebuilds", Role.SOURCE: "gives"}


def check_pair(described: Mapping[Role, Description]) -> None:
    """Raise CheckpointError where a verbalizer, a reconstructor and a source do not belong together."""
    for one, other in itertools.combinations(described.values(), 2):
        if one.d_model != other.d_model:
            raise CheckpointError(
                f"no pair: the {one.role.label}'s d_model is {one.d_model}, the {other.role.label}'s {other.d_model}"
            )
        if None not in (one.layer, other.layer) and one.layer != other.layer:
            raise CheckpointError(
                f"no pair: the {one.role.label} {VERBS[one.role]} layer {one.layer},"
                f" the {other.role.label} {VERBS[other.role]} {other.layer}"
            )
