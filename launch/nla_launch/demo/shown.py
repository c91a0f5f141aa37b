"""What stands beside the pair for those who try it: held-out vectors, request bodies, and the page's vectors.

`python -m nla_launch.demo.shown OUT FOLDER PAGE`: out of what the training read into OUT.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from nla_client.wire import encode_vector
from nla_launch.demo.base import load_model, load_tokenizer
from nla_launch.demo.examples import Examples, read_ends
from nla_launch.demo.targets import kind_of

COUNT: Final = 200
"""Held-out vectors: enough to check the page's figures on."""
ON_THE_PAGE: Final = 16
SENTENCE: Final = "The doctor listened to her heart and said that she would need to rest for a week."


def write(model: Any, tokenizer: Any, held_out: Examples, folder: Path, page: Path) -> None:
    """Write them. Each vector is that of its own context's last token: whoever reads the context finds it."""
    contexts = [text.partition(" ")[2] if text.count(" ") > 1 else text for text in held_out.contexts[:COUNT].tolist()]
    some = read_ends(model, tokenizer, contexts, [kind_of(text) for text in held_out.explanations[:COUNT].tolist()])
    tokens = [tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"][-1:]) for text in contexts]
    np.savez_compressed(folder / "vectors.npz", tokens=np.array(tokens), **vars(some))
    encoded = [encode_vector(vector, "bfloat16") for vector in some.vectors[:ON_THE_PAGE]]
    (page / "vectors.json").write_text(json.dumps({"dtype": "bfloat16", "vectors": encoded}) + "\n", encoding="utf-8")
    vectors, texts = encoded[:2], some.explanations[:2].tolist()
    bodies = {
        "explain.json": {"texts": [SENTENCE], "positions": "content", "temperature": 0, "score": True},
        "verbalize.json": {"vectors": vectors, "dtype": "bfloat16", "score": True, "seed": 0},
        "reconstruct.json": {"texts": texts},
        "critic.json": {"texts": texts, "vectors": vectors, "dtype": "bfloat16"},
    }
    for name, body in bodies.items():
        (folder / name).write_text(json.dumps(body, indent=2) + "\n", encoding="utf-8")


def main() -> int:
    """Read the model anew, and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="what the training wrote to")
    parser.add_argument("folder", type=Path, help="where vectors and bodies go")
    parser.add_argument("page", type=Path, help="where the page's vectors go")
    given = parser.parse_args()
    base = load_model(torch.bfloat16).float()  # as it is served: weights of bfloat16, computed in float32
    write(base, load_tokenizer(), Examples.load(given.out / "held-out.npz"), given.folder, given.page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
