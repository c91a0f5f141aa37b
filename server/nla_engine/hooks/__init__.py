"""Functions of ours at places in SGLang; plugin.py says which at which."""
