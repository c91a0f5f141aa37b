"""Whether vectors look like the layer that the served pair was trained for. Pure."""

from typing import Final

import numpy as np

from nla_client.vectors import VectorsLike, as_vectors
from nla_client.wire import Info

FACTOR: Final = 4.0
"""How far the median norm may be from `injection_scale`, up or down: within one layer norms vary less."""


def check_layer(vectors: VectorsLike, info: Info) -> str | None:
    """Tell what looks wrong about vectors [N, d], or None. A hint, no proof: neighbouring layers look much alike.

    The verbalizer's vectors are scaled to `injection_scale`, which stands for the usual norm at its layer.

    Raises:
        InvalidVectorError: not vectors.
    """
    scale = info.verbalizer.injection_scale if info.verbalizer else None
    given = as_vectors(vectors, "float32")
    if scale is None or not given.count:
        return None
    middle = float(np.median(np.linalg.norm(given.read(0, given.count), axis=1)))
    if scale / FACTOR <= middle <= scale * FACTOR:
        return None
    model, layer = info.base_model or "the base model", info.layer
    where = "its layer" if layer is None else f"layer {layer}"
    wanted = (
        ""
        if layer is None
        else (
            f" Wanted is the output of decoder block {layer} (blocks count from 0), which transformers calls "
            f"hidden_states[{layer + 1}], since hidden_states[0] is the embedding"
        )
    )
    return (
        f"the vectors' median norm is {middle:.4g}, but {model} has about {scale:g} at {where}: another layer, "
        f"another model, or vectors that were normalised?{wanted}"
    )
