"""What a preset may state of how its checkpoints are used, over what their sidecars say; see description.py."""

from typing import Annotated, Final, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from nla_gateway.description import ADD, PromptKind, Tags
from nla_launch.pair.sources import Frozen

Number = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class MarkerRule(Frozen):
    """The marker, or some of it."""

    char: str | None = Field(default=None, min_length=1)
    token_id: int | None = None
    left: int | None = None
    right: int | None = None


class InjectionRule(Frozen):
    """How vectors get in."""

    rule: Literal["replace", "add_after_block"]
    block: int | None = Field(default=None, ge=0)
    scale: Number | Literal["sqrt_d_model", "raw"] | None = None

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self.rule == ADD and self.block is None:
            raise ValueError(f"{ADD} needs the block, such as `block: 1`")
        if self.rule == ADD and self.scale is not None:
            raise ValueError(f"{ADD} adds v at the norm of what is there: it takes no scale")
        if self.rule != ADD and self.block is not None:
            raise ValueError(f"{self.rule} happens before the first block: it takes no block")
        return self


class VerbalizerRules(Frozen):
    """Of the verbalizer."""

    template: str | None = None
    injection: InjectionRule | None = None
    prompt: PromptKind | None = None
    enable_thinking: bool | None = None
    append_to_turn: str | None = None
    append: str | None = None
    tags: Tags | None = None
    max_tokens: int | None = Field(default=None, gt=0)
    complete_at_limit: bool | None = None

    @model_validator(mode="after")
    def _go_together(self) -> Self:
        if self.prompt == "plain" and self.enable_thinking is not None:
            raise ValueError("enable_thinking is for a chat template, and prompt: plain uses none")
        if self.complete_at_limit and self.max_tokens is None:
            raise ValueError("complete_at_limit needs the limit, such as `max_tokens: 120`")
        return self


class HeadRule(Frozen):
    """Where the value head is: a file in the checkpoint's folder, or at a path of its own."""

    file: str
    weight: str = "weight"
    bias: str | None = None


def _no_head(value: object) -> object:
    """`none` is a word in YAML, and null would be no statement."""
    return "none" if isinstance(value, str) and value.lower() == "none" else value


class ReconstructorRules(Frozen):
    """Of the reconstructor."""

    template: str | None = None
    blocks: int | None = Field(default=None, gt=0)
    final_norm: bool | None = None
    value_head: Annotated[HeadRule | Literal["none"] | None, BeforeValidator(_no_head)] = None
    add_special_tokens: bool | None = None
    suffix_ids: list[int] | None = None


class Rules(Frozen):
    """Of a pair. Null: not stated."""

    layer: int | None = Field(default=None, ge=0)
    mse_scale: Number | Literal["sqrt_d_model", "none"] | None = None
    marker: MarkerRule = MarkerRule()
    verbalizer: VerbalizerRules = VerbalizerRules()
    reconstructor: ReconstructorRules = ReconstructorRules()

    @property
    def say_nothing(self) -> bool:
        """Whether none is stated."""
        return not any(self.model_dump(include=set(Rules.model_fields), exclude_none=True).values())


NO_RULES: Final = Rules()
