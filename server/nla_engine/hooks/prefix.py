"""A hook on prefix matching, in the scheduler: what stands before an injected vector is reused from the cache.

SGLang matches nothing for requests with injected vectors, since equal token ids do not mean equal keys and values
there. But what precedes the first vector does not depend on it. Such requests still put nothing into the cache.
"""

from collections.abc import Callable
from typing import Any


def reuse_before_vectors(
    original: Callable[..., Any], req: Any, tree_cache: Any, token_ids: Any = None, **options: Any
) -> Any:
    """Match a request with injected vectors by its real token ids, up to the first vector and no further.

    Args:
        original: SGLang's function.
        req: the request.
        tree_cache: the prefix cache.
        token_ids: what SGLang would match; empty for requests with injected vectors.
        options: `max_prefix_len` and others that pass through.

    Returns:
        SGLang's match.
    """
    overrides = req.positional_embed_overrides
    if overrides is None or not len(overrides.positions):
        return original(req, tree_cache, token_ids, **options)
    ids = req.full_untruncated_fill_ids
    options["max_prefix_len"] = min(*overrides.positions, req._compute_max_prefix_len(len(ids)))
    return original(req, tree_cache, ids, **options)
