"""Model classes that SGLang finds through SGLANG_EXTERNAL_MODEL_PACKAGE, one file per family."""
