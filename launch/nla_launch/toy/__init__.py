"""The toy pair: a small verbalizer and reconstructor that we trained on synthetic activations, for tests.

The committed checkpoints are in `verbalizer/` and `reconstructor/`; this package makes them anew.
"""
