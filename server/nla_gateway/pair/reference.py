"""What an engine found, beside what transformers does: how far apart they may be. Pure."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from nla_client.wire import VectorDType

DIRECTION: Final[dict[VectorDType, float]] = {"float32": 1e-5, "bfloat16": 5e-3}
"""The most that 1 - cosine may be, by what the engine computes in."""
LENGTH: Final[dict[VectorDType, float]] = {"float32": 1e-3, "bfloat16": 5e-2}
"""The most that lengths may differ, as a share."""
LOGPROB: Final[dict[VectorDType, float]] = {"float32": 2e-2, "bfloat16": 1.0}
"""The most that a log-probability of a likely token may differ."""
MEND: Final = "SGLang's model of this architecture computes otherwise, and cannot be used"


def vector_mismatch(found: NDArray[np.float32], wanted: NDArray[np.float32], dtype: VectorDType) -> str | None:
    """Tell how a rebuilt vector [d_model] differs from transformers'; None where it does not."""
    ours, theirs = found.astype(np.float64), wanted.astype(np.float64)
    length, other = np.linalg.norm(ours), np.linalg.norm(theirs)
    apart = 1 - float(ours @ theirs / (length * other))
    longer = float(length / other) - 1
    # Not the other way round: of NaN nothing is true.
    if apart <= DIRECTION[dtype] and abs(longer) <= LENGTH[dtype]:
        return None
    return (
        f"it gives another vector than transformers does of the same text (1 - cosine is {apart:.1e}, at most"
        f" {DIRECTION[dtype]:.0e} is rounding; its length is {longer:+.1%}): {MEND}"
    )


def logprob_mismatch(apart: float, dtype: VectorDType) -> str | None:
    """Tell that log-probabilities differ from transformers'; None where they do not."""
    if apart <= LOGPROB[dtype]:
        return None
    return (
        "with a vector in its prompt it finds other tokens likely than transformers does (log-probabilities"
        f" {apart:.2g} apart, at most {LOGPROB[dtype]:g} is rounding): {MEND}"
    )
