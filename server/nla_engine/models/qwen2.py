"""The reconstructor of the Qwen2 family."""

from sglang.srt.models.qwen2 import Qwen2ForCausalLM

from nla_engine.reconstructor import ReconstructorMixin


class Qwen2Reconstructor(ReconstructorMixin, Qwen2ForCausalLM):  # type: ignore[misc]  # SGLang ships no types
    """Qwen2's first blocks and a value head."""


# SGLang's own as well: it would else import all its models to find it.
EntryClass = [Qwen2Reconstructor, Qwen2ForCausalLM]
