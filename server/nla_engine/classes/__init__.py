"""The model classes of the verbalizer and the reconstructor, for any of the causal models that SGLang has."""
