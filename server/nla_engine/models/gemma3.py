"""The reconstructor of the Gemma3 family."""

from sglang.srt.models.gemma3_causal import Gemma3ForCausalLM

from nla_engine.reconstructor import ReconstructorMixin


class Gemma3Reconstructor(ReconstructorMixin, Gemma3ForCausalLM):  # type: ignore[misc]  # SGLang ships no types
    """Gemma3's first blocks and a value head."""


# SGLang's own as well: it would else import all its models to find it.
EntryClass = [Gemma3Reconstructor, Gemma3ForCausalLM]
