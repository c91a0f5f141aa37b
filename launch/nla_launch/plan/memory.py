"""How much memory an engine takes on each of its GPUs. Knows shapes and SGLang's habits, nothing of who gets which GPU.

Estimates, on the safe side: weights (from the heads of their files, where those are there, else from the shape of a
dense model) and KV pool are exact but for small parameters, the overhead is a bound.
"""

from dataclasses import dataclass
from typing import Final, Literal, assert_never

from nla_gateway.roles import Role
from nla_launch.pair.model_config import BYTES, ModelConfig

DType = Literal["bfloat16", "float32"]
Quantization = Literal["fp8"]

PREFILL_TOKENS: Final = 8192
"""Prompt tokens that a GPU engine computes at a time: SGLang's --chunked-prefill-size and --max-prefill-tokens."""
CONTEXT_BYTES: Final = 1_000_000_000
"""CUDA context, kernels and NCCL buffers."""
GRAPH_BYTES: Final = 1_500_000_000
"""Decode graphs and the attention backend's workspace."""
SAMPLING_BYTES: Final = 40
"""Per sample and vocabulary entry while sampling with top_p: logits, probabilities, their sorting and sums, and our
own draw in the order of the vocabulary, in float64."""
KEPT_FREE: Final = 0.05
"""Share of a GPU that is left free: for fragmentation, and for what these estimates miss."""
MEMORY_SHARE: Final = 0.9
"""SGLang's --mem-fraction-static for GPUs whose size is not known."""


@dataclass(frozen=True)
class Load:
    """What an engine computes in, and how it is spread."""

    role: Role
    config: ModelConfig
    dtype: DType
    quantization: Quantization | None
    tp: int
    context_length: int = 0
    """Tokens of the longest prompt, which a source computes at a time."""

    @property
    def weights(self) -> int:
        """Bytes of the weights on each GPU while it serves."""
        return self._weights(1 if self.quantization == "fp8" else BYTES[self.dtype])

    @property
    def loading(self) -> int:
        """Bytes on each GPU at the end of loading: SGLang quantizes only what it has loaded whole."""
        return CONTEXT_BYTES + self._weights(BYTES[self.dtype])

    def pool(self, tokens: int) -> int:
        """Bytes of a KV pool of so many tokens on each GPU."""
        return tokens * self.config.kv_bytes_per_token(self.dtype, self.tp)

    def working(self, requests: int) -> int:
        """Bytes that computing takes on each GPU beside weights and pool, for so many requests at the same time."""
        activations = 3 * self.config.intermediate // self.tp + 6 * self.config.d_model
        tokens = max(PREFILL_TOKENS, self.context_length)
        computing = GRAPH_BYTES + tokens * activations * BYTES[self.dtype]
        match self.role:
            case Role.AV:
                return computing + requests * self.config.vocabulary * (SAMPLING_BYTES + self._gathered_bytes)
            case Role.AR:
                return computing
            case Role.SOURCE:  # and every row gathered, where all are asked for
                return computing + tokens * self.config.d_model * BYTES["float32"]
            case _:
                assert_never(self.role)

    @property
    def _gathered_bytes(self) -> int:
        """Per sample and vocabulary entry where each GPU gathers the whole logits of all."""
        return self.tp * BYTES[self.dtype] if self.config.whole_embedding and self.tp > 1 else 0

    def _weights(self, block_bytes: int) -> int:
        match self.role:
            case Role.AV:
                tables, head = 1 if self.config.tied else 2, 0
            case Role.AR:  # no lm_head, and all of its float32 value head on each GPU
                tables, head = 1, self.config.d_model**2 * BYTES["float32"]
            case Role.SOURCE:  # no head of either kind
                tables, head = 1, 0
            case _:
                assert_never(self.role)
        # Never quantized.
        parts = 1 if self.config.whole_embedding else self.tp
        embeddings = tables * self.config.embedding_parameters // parts * BYTES[self.dtype]
        blocks = self.config.block_parameters(self.tp) * block_bytes + self.config.packed_bytes(self.tp)
        return blocks + embeddings + head


def pool_bounds(role: Role, requests: int, context_length: int) -> tuple[int, int]:
    """Tell how many tokens a KV pool must have, and how many it should.

    A sample needs its answer and what of the prompt no other shares, 228 tokens with the default max_tokens; more
    lets long answers and other prompts in. A reconstructor's and a source's texts stay for one pass only, two of which
    overlap.
    """
    match role:
        case Role.AV:
            return max(2 * context_length, 256 * requests), max(2 * context_length, 512 * requests)
        case Role.AR:
            return 2 * context_length, 2 * PREFILL_TOKENS
        case Role.SOURCE:
            return 2 * context_length, 2 * max(context_length, PREFILL_TOKENS)
        case _:
            assert_never(role)


def static_share(working_bytes: int, memory_bytes: int) -> float:
    """Form --mem-fraction-static: it keeps free what computing takes, so that --max-total-tokens is what counts."""
    return int(1000 * (1 - working_bytes / memory_bytes)) / 1000
