"""A hook on the engine's report of itself: which role, model and hooks really run.

A plugin that failed to load leaves a stock engine that answers just as readily; the gateway looks for this report.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any, Final

FINGERPRINT_VARIABLE: Final = "NLA_ENGINE_FINGERPRINT"
"""Set by nla-serve: what tells the checkpoint from others of its name."""


def reporting(role: str, targets: Sequence[str]) -> Callable[..., None]:
    """Form the hook of an engine whose other hooks have these targets."""

    def report(result: Any, scheduler: Any, *args: Any, **kwargs: Any) -> None:
        """Add `nla` to the internal state that `GET /server_info` shows."""
        from sglang.srt.plugins.hook_registry import HookRegistry

        model = scheduler.tp_worker.model_runner.model
        result.internal_state["nla"] = {
            "role": role,
            "fingerprint": os.environ.get(FINGERPRINT_VARIABLE),
            # SGLang only logs a hook that does not fit.
            "missing_hooks": [target for target in targets if target not in HookRegistry._patched],
            "model_class": type(model).__name__,
            "kind": getattr(model, "nla_kind", "stock"),
            "blocks": len(getattr(model, "nla_layers", ())),
            "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
        }

    return report
