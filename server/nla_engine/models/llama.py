"""The reconstructor of the Llama family."""

from sglang.srt.models.llama import LlamaForCausalLM

from nla_engine.reconstructor import ReconstructorMixin


class LlamaReconstructor(ReconstructorMixin, LlamaForCausalLM):  # type: ignore[misc]  # SGLang ships no types
    """Llama's first blocks and a value head."""


# SGLang's own as well: it would else import all its models to find it.
EntryClass = [LlamaReconstructor, LlamaForCausalLM]
