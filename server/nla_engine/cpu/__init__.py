"""SGLang on any CPU."""
