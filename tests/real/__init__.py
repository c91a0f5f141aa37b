"""Real tokenizers and real weights, which packages carry: what no one here made."""
