"""What a data set of extracted vectors says of itself, as the public trainer's next stage reads it."""

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

import yaml

from nla_client import Info

SCHEMA_VERSION: Final = 1
_COLUMNS: Final = {
    "document": "doc_id",
    "position": "position",
    "token": "token",
    "token_id": "token_id",
    "tokens": "n_raw_tokens",
    "text": "detokenized_text_truncated",
    "vector": "activation_vector",
    "layer": "activation_layer",
    "norm": "norm",
}
"""What the columns hold, by name."""


def content(
    info: Info, inputs: Sequence[str], made_by: str, positions: dict[str, Any], counted: tuple[int, int]
) -> bytes:
    """The sidecar's text.

    Args:
        info: Of the server that read the vectors, with its source.
        inputs: Files that the texts are from.
        made_by: The command.
        positions: What was asked for: `positions`, `seed`, `vectors` (their dtype) and `positions_per_doc`.
        counted: Rows of the input and of the output.
    """
    texts, rows = counted
    base_model = info.base_model or (info.source.model if info.source else "")
    layer = info.source.layer if info.source else info.layer
    corpus = ", ".join(inputs)
    print_ = hashlib.sha256(repr((base_model, layer, corpus, positions, counted)).encode()).hexdigest()[:8]
    told = {
        "kind": "nla_dataset",
        "schema_version": SCHEMA_VERSION,
        "dataset_id": f"base_{base_model.rsplit('/', 1)[-1]}_L{layer}_{print_}",
        "stage": "base",
        "row_count": rows,
        # The trainer takes these keys and no others.
        "extraction": {
            "base_model": base_model,
            "d_model": info.d_model,
            "layer_index": layer,
            "norm": "none",
            "corpus": corpus,
            "corpus_slice": {"start": 0, "length": texts},
            "positions_per_doc": positions.pop("positions_per_doc", None),
        },
        "keep_debug_metadata": True,
        "positions": positions,
        "columns": _COLUMNS,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "created_by": made_by,
    }
    return yaml.safe_dump(told, sort_keys=False, allow_unicode=True).encode()
