"""Hooks on tokenizers: an engine loads its own once, and before it forks, so that its processes have it already.

In SGLang each process of an engine loads it anew, a scheduler twice: on two cores half of a small engine's start.
"""

import multiprocessing
from collections.abc import Callable
from typing import Any, Final

_LOADED: Final[dict[tuple[object, ...], Any]] = {}
"""What was loaded, by the arguments that it was asked for with."""


def load_once(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Give the tokenizer that was loaded with the same arguments, or load it."""
    key = (*args, *sorted(kwargs.items()))
    if key not in _LOADED:
        _LOADED[key] = original(*args, **kwargs)
    return _LOADED[key]


def load_before_forks(*args: Any, **kwargs: Any) -> None:
    """Load the tokenizer as an engine's processes will ask for it, by the same arguments, where they are forks."""
    from sglang.srt.runtime_context import get_model, get_serving
    from sglang.srt.utils.hf_transformers import tokenizer

    serving = get_serving()
    if multiprocessing.get_start_method() != "fork" or serving.skip_tokenizer_init:
        return
    tokenizer.get_tokenizer(
        serving.tokenizer_path,
        tokenizer_mode=serving.tokenizer_mode,
        trust_remote_code=get_model().trust_remote_code,
        revision=get_model().revision,
        tokenizer_backend=serving.tokenizer_backend,
    )
