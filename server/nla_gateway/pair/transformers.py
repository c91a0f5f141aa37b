"""transformers, imported without torch: for configs and tokenizers it needs none, and torch is seconds and 750 MB."""

import logging
import os
import sys
from typing import Any, Final

QUIET: Final = "TRANSFORMERS_NO_ADVISORY_WARNINGS"
TOKENIZERS_LOGGER: Final = "transformers.tokenization_utils_tokenizers"


def import_transformers(*, torch: bool = False) -> Any:
    """Import transformers.

    Args:
        torch: whether it is to have torch: a checkpoint's own Python code may want it.
    """
    logging.getLogger(TOKENIZERS_LOGGER).addFilter(_is_no_false_alarm)
    if not torch and not {"torch", "transformers"} & sys.modules.keys():
        _import_without_torch()
    import transformers

    return transformers


def _is_no_false_alarm(record: logging.LogRecord) -> bool:
    """Drop a warning of "an incorrect regex pattern": transformers takes any tokenizer of unknown age for Mistral's."""
    return "fix_mistral_regex" not in record.getMessage()


def _import_without_torch() -> None:
    before = os.environ.get(QUIET)
    os.environ[QUIET] = "1"  # that it finds no torch is no news
    sys.modules["torch"] = None  # type: ignore[assignment]  # Python's way to say that there is none
    try:
        import transformers  # noqa: F401
    finally:
        del sys.modules["torch"]
        os.environ.pop(QUIET) if before is None else os.environ.update({QUIET: before})
