"""LoRA adapters: what they hold, whether they fit, and merged into weights that are being loaded."""
