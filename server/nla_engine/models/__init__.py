"""Empty, and named in SGLANG_EXTERNAL_MODEL_PACKAGE.

So SGLang imports its own models only where it looks for one that is not registered yet, and it finds ours registered:
importing them all takes seconds, and starts threads, after which nothing could be forked.
"""
