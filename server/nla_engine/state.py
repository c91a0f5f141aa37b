"""A hook on the engine's report of itself: which role, model class and hooks really run.

A plugin that failed to load leaves a stock engine that answers just as readily; the gateway looks for this report.
"""

import os
from typing import Any

from nla_engine.plugin import ROLE_VARIABLE, hooks_for


def report(result: Any, scheduler: Any, *args: Any, **kwargs: Any) -> None:
    """Add `nla` to the internal state that `GET /server_info` shows."""
    from sglang.srt.plugins.hook_registry import HookRegistry

    model, role = scheduler.tp_worker.model_runner.model, os.environ[ROLE_VARIABLE]
    result.internal_state["nla"] = {
        "role": role,
        # SGLang only logs a hook that does not fit.
        "missing_hooks": [hook.target for hook in hooks_for(role) if hook.target not in HookRegistry._patched],
        "model_class": type(model).__name__,
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
    }
