"""How users name what is to be served: one checkpoint, or a base and the adapters that go on top of it."""

from pydantic import BaseModel, ConfigDict, Field


class Frozen(BaseModel):
    """What users state: no word of it is ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class AdapterSource(Frozen):
    """One adapter, and what its own files leave open."""

    source: str
    use_rslora: bool | None = Field(default=None, description="Whether its scale is alpha / sqrt(r), not alpha / r.")


class Based(Frozen):
    """A base model and what is merged into its weights; of a reconstructor's base the first blocks are taken."""

    base: str
    adapters: tuple[str | AdapterSource, ...] = Field(default=(), description="Each on top of those before it.")

    def __str__(self) -> str:
        return " + ".join([self.base, *(adapter.source for adapter in self.stated)])

    @property
    def stated(self) -> tuple[AdapterSource, ...]:
        """All adapters in the long form."""
        return tuple(AdapterSource(source=one) if isinstance(one, str) else one for one in self.adapters)


Source = str | Based
"""Of a whole checkpoint, or of one that is put together."""
