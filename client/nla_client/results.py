"""What the clients return. It knows nothing of HTTP.

`Sample` and `Score` are the contract's own models, frozen; a `Verbalization` is all samples of one vector.
"""

from dataclasses import dataclass

from nla_client.wire import FinishReason, Sample, Score


@dataclass(frozen=True, slots=True, repr=False)
class Verbalization:
    """The texts sampled for one vector, at least one; `text` and the like are those of the first."""

    samples: tuple[Sample, ...]

    @property
    def text(self) -> str:
        """What stands between the <explanation> tags, stripped."""
        return self.samples[0].text

    @property
    def complete(self) -> bool:
        """False where the closing tag never came; `text` is then what there was."""
        return self.samples[0].complete

    @property
    def finish_reason(self) -> FinishReason:
        """`stop`, or `length` where `max_tokens` ended the sample."""
        return self.samples[0].finish_reason

    @property
    def score(self) -> Score | None:
        """How near the text's reconstruction comes to the vector; None unless asked for with `score=True`."""
        return self.samples[0].score

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        fields = {name: getattr(self, name) for name in ("text", "complete", "finish_reason", "score")}
        shown = ", ".join(f"{name}={value!r}" for name, value in fields.items())
        more = f", samples=<{len(self.samples)}>" if len(self.samples) > 1 else ""
        return f"Verbalization({shown}{more})"
