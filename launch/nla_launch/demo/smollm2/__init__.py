"""A pair of a real language model: SmolLM2-135M-Instruct read after block 20. How its halves are trained."""
