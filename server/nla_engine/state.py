"""A hook on the engine's report of itself: which role and which model class really run.

A plugin that failed to load leaves a stock engine that answers just as readily; the gateway looks for this report.
"""

import os
from typing import Any

from nla_engine.plugin import ROLE_VARIABLE


def report(result: Any, scheduler: Any, *args: Any, **kwargs: Any) -> None:
    """Add `nla` to the internal state that `GET /server_info` shows."""
    model = scheduler.tp_worker.model_runner.model
    result.internal_state["nla"] = {
        "role": os.environ[ROLE_VARIABLE],
        "model_class": type(model).__name__,
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
    }
