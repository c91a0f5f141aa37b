"""Trains the toy pair: `python -m nla_launch.toy.train --out DIR`. Seeded; minutes on two cores."""

import argparse
import json
import logging
import math
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from nla_client.wire import encode_vector
from nla_launch.demo.learning import IGNORED, answer_loss, padded
from nla_launch.toy import data, evaluate
from nla_launch.toy.networks import (
    Reconstructor,
    new_reconstructor,
    new_verbalizer,
    save_reconstructor,
    save_verbalizer,
)
from nla_launch.toy.tokenizer import END, INJECTION_SCALE, MARKER, build, reconstructor_ids, verbalizer_ids

logger = logging.getLogger(__name__)

BATCH: Final = 64
VERBALIZER_STEPS: Final = 2500
RECONSTRUCTOR_STEPS: Final = 1500
PEAK_RATE: Final = 2e-3


def main() -> int:
    """Train, write both checkpoints and the example files, print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="where the checkpoint folders go")
    parser.add_argument("--steps", type=float, default=1.0, help="share of the full training (for trying it out)")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    torch.manual_seed(0)
    tokenizer = build()
    reconstructor = train_reconstructor(tokenizer, int(RECONSTRUCTOR_STEPS * arguments.steps))
    save_reconstructor(reconstructor, tokenizer, arguments.out / "reconstructor")
    verbalizer = train_verbalizer(tokenizer, int(VERBALIZER_STEPS * arguments.steps))
    save_verbalizer(verbalizer, tokenizer, arguments.out / "verbalizer")
    write_examples(arguments.out)
    for dtype in (torch.float32, torch.bfloat16):
        sys.stdout.write(evaluate.report(arguments.out, dtype) + "\n")
    return 0


def train_verbalizer(tokenizer: Any, steps: int) -> Any:
    """Teach a network to name the concepts of the vector that stands in the marker's place."""
    model = new_verbalizer(tokenizer)
    ids = torch.tensor(verbalizer_ids(tokenizer))
    at = int((ids == tokenizer.convert_tokens_to_ids(MARKER)).nonzero())
    rng = np.random.default_rng(10)

    def loss() -> torch.Tensor:
        examples = data.sample(BATCH, rng, held_out=False)
        answers = [f"<explanation>{data.explain(c, rng)}</explanation>{END}" for c in examples.concepts]
        targets = padded([tokenizer.encode(a, add_special_tokens=False) for a in answers], IGNORED, left=False)
        rows = torch.from_numpy(examples.vectors)
        rows = rows * INJECTION_SCALE / rows.norm(dim=1, keepdim=True)
        return answer_loss(model, ids, at, rows, targets)

    _fit(model, loss, steps, "verbalizer")
    return model


def train_reconstructor(tokenizer: Any, steps: int) -> Reconstructor:
    """Teach a network to rebuild vectors, scaled to norm sqrt(d_model), from texts."""
    model = new_reconstructor(tokenizer)
    rng = np.random.default_rng(20)

    def loss() -> torch.Tensor:
        examples = data.sample(BATCH, rng, held_out=False)
        texts = [(data.explain if rng.random() < 0.5 else data.note)(c, rng) for c in examples.concepts]
        ids = padded([reconstructor_ids(tokenizer, text) for text in texts], IGNORED, left=True)
        mask = ids != IGNORED
        rebuilt = model(ids.clamp(min=0), mask)
        wanted = torch.from_numpy(examples.vectors)
        wanted = wanted * math.sqrt(data.D_MODEL) / wanted.norm(dim=1, keepdim=True)
        return nn.functional.mse_loss(rebuilt, wanted)

    _fit(model, loss, steps, "reconstructor")
    return model


def write_examples(folder: Path) -> None:
    """Write held-out vectors with their concepts, and request bodies ready for curl."""
    rng = np.random.default_rng(99)
    examples = data.sample(64, rng, held_out=True)
    names = np.array([", ".join(concepts) for concepts in examples.concepts])
    np.savez(folder / "vectors.npz", vectors=examples.vectors, concepts=names)
    encoded = [encode_vector(vector, "bfloat16") for vector in examples.vectors[:2]]
    texts = [data.explain(concepts, rng) for concepts in examples.concepts[:2]]
    bodies = {
        "verbalize.json": {"vectors": encoded, "dtype": "bfloat16", "score": True, "seed": 0},
        "reconstruct.json": {"texts": texts},
        "critic.json": {"texts": texts, "vectors": encoded, "dtype": "bfloat16"},
    }
    for name, body in bodies.items():
        (folder / name).write_text(json.dumps(body, indent=2) + "\n", encoding="utf-8")


def _fit(model: nn.Module, loss: Any, steps: int, name: str) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, weight_decay=0.01, betas=(0.9, 0.98))
    warmup = max(1, steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, 0.02 + 0.49 * (1 + math.cos(math.pi * step / steps)))
    )
    model.train()
    for step in range(steps):
        value = loss()
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0 or step == steps - 1:
            logger.info("%s: step %d of %d, loss %.4f", name, step, steps, value.item())
    model.eval()


if __name__ == "__main__":
    sys.exit(main())
