"""Trains the pair: `python -m nla_launch.demo.smollm2.train --corpus DIR --out DIR`. Seeded; goes on where it was.

First the reconstructor on the true explanations, then the verbalizer on the same; hours on two cores. What was read and
what was learned so far is in OUT, so that it may be ended at any time.
"""

import argparse
import logging
import math
import sys
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from nla_launch.demo.smollm2 import evaluate
from nla_launch.demo.smollm2.base import load_model, load_tokenizer
from nla_launch.demo.smollm2.corpus import documents
from nla_launch.demo.smollm2.examples import Examples, collect
from nla_launch.demo.smollm2.halves import Reconstructor, Verbalizer

logger = logging.getLogger(__name__)

HELD_OUT: Final = 2000
BATCH: Final = 16
PEAK_RATE: Final = 5e-4
HEAD_RATE: Final = 1e-5
"""Of the value head, which begins where regression left it, and takes in values of about 10."""
KEPT_EVERY_S: Final = 180.0
REGRESSED: Final = 2000
"""Examples for the value head's beginning."""
SAID_EVERY: Final = 25


def main() -> int:
    """Read what is missing, train what is not trained, print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, required=True, help="folder of unpacked packages and generated texts")
    parser.add_argument("--out", type=Path, required=True, help="where everything goes")
    parser.add_argument("--examples", type=int, default=20_000, help="vectors to train on (default 20000)")
    parser.add_argument("--steps", type=int, default=2500, help="of each half, of 16 vectors (default 2500)")
    parser.add_argument("--checked", type=int, default=200, help="held-out vectors in the figures (default 200)")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    arguments.out.mkdir(parents=True, exist_ok=True)
    tokenizer = load_tokenizer()
    training, held_out = read(arguments.corpus, arguments.out, tokenizer, arguments.examples)
    torch.manual_seed(0)
    reconstructor, verbalizer = Reconstructor(load_model(), tokenizer), Verbalizer(load_model(), tokenizer)
    if not (arguments.out / "reconstructor.pt").exists():
        reconstructor.begin(training[:REGRESSED])
    for name, half in (("reconstructor", reconstructor), ("verbalizer", verbalizer)):
        fit(half, training, arguments.steps, arguments.out / f"{name}.pt", seed=len(name))
        half.save(arguments.out / name)
    sys.stdout.write(evaluate.report(verbalizer, reconstructor, held_out[: arguments.checked]) + "\n")
    return 0


def read(corpus: Path, out: Path, tokenizer: Any, count: int) -> tuple[Examples, Examples]:
    """The examples for training and those held out, of other documents; read from the model where they are missing."""
    paths = {False: out / "training.npz", True: out / "held-out.npz"}
    if not all(path.exists() for path in paths.values()):
        model, found = load_model(), documents(corpus)
        for held_out, path in paths.items():
            some = [document for document in found if document.held_out == held_out]
            logger.info("reading %d documents into %s", len(some), path.name)
            wanted = HELD_OUT if held_out else count
            collect(model, tokenizer, some, count=wanted, seed=int(held_out)).save(path)
    training = Examples.load(paths[False])
    if len(training) != count:
        raise ValueError(f"{paths[False]} has {len(training)} examples, not {count}: delete it, or say --examples")
    return training, Examples.load(paths[True])


def fit(half: Reconstructor | Verbalizer, examples: Examples, steps: int, path: Path, *, seed: int) -> None:
    """Train a half, from where it was left."""
    trained = {name: value for name, value in half.named_parameters() if value.requires_grad}
    head = [value for name, value in trained.items() if name.startswith("head.")]
    factors = [value for name, value in trained.items() if not name.startswith("head.")]
    groups = [{"params": factors, "peak": PEAK_RATE}, {"params": head, "peak": HEAD_RATE}]
    optimizer = torch.optim.AdamW([group for group in groups if group["params"]], weight_decay=0.0, betas=(0.9, 0.98))
    step = _resume(half, optimizer, path)
    kept = time.monotonic()
    half.train()
    while step < steps:
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * _share(step, steps)
        loss: Any = half.loss(examples[_rows(step, len(examples), seed)])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained.values(), 1.0)
        optimizer.step()
        step += 1
        if step % SAID_EVERY == 0:
            logger.info("%s: step %d of %d, loss %.4f", path.stem, step, steps, loss.item())
        if step == steps or time.monotonic() - kept > KEPT_EVERY_S:
            _keep(trained, optimizer, step, path)
            kept = time.monotonic()
    half.eval()


def _rows(step: int, count: int, seed: int) -> Any:
    """A step's rows: each epoch in an order of its own, known from the step alone."""
    a_pass = count // BATCH
    epoch, place = divmod(step, a_pass)
    return np.random.default_rng([seed, epoch]).permutation(count)[place * BATCH : (place + 1) * BATCH]


def _share(step: int, steps: int) -> float:
    """Of the peak rate: up for a twentieth of the steps, then down along a cosine."""
    return min((step + 1) / max(1, steps // 20), 0.02 + 0.49 * (1 + math.cos(math.pi * step / steps)))


def _keep(trained: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer, step: int, path: Path) -> None:
    half = path.with_suffix(".half")
    torch.save({"step": step, "trained": trained, "optimizer": optimizer.state_dict()}, half)
    half.rename(path)


def _resume(half: nn.Module, optimizer: torch.optim.Optimizer, path: Path) -> int:
    if not path.exists():
        return 0
    kept = torch.load(path, weights_only=True)
    if half.load_state_dict(kept["trained"], strict=False).unexpected_keys:
        raise ValueError(f"{path} is of another half")
    optimizer.load_state_dict(kept["optimizer"])
    step: int = kept["step"]
    logger.info("%s: going on at step %d", path.stem, step)
    return step


if __name__ == "__main__":
    sys.exit(main())
