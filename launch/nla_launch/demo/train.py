"""Trains the pair: `python -m nla_launch.demo.train --corpus DIR --out DIR`. Seeded; goes on where it was.

First the reconstructor on the true explanations, then the verbalizer on the same, then the reconstructor on what the
verbalizer says; hours on two cores. What was read and what was learned so far is in OUT, so that it may be ended at any
time.
"""

import argparse
import logging
import math
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from nla_launch.demo import evaluate
from nla_launch.demo.base import load_model, load_tokenizer
from nla_launch.demo.corpus import documents
from nla_launch.demo.examples import Examples, collect
from nla_launch.demo.halves import Reconstructor, Verbalizer

logger = logging.getLogger(__name__)

HELD_OUT: Final = 2000
BATCH: Final = 32
STEPS: Final = {"reconstructor": 120, "verbalizer": 400, "again": 80}
"""Of each half, and of the reconstructor on the verbalizer's words."""
PEAK_RATE: Final = 7e-4
HEAD_RATE: Final = 1e-5
"""Of the value head, which begins where regression left it, and takes in values of about 10."""
KEPT_EVERY_S: Final = 180.0
SAID: Final = 1280
"""Vectors that the verbalizer explains for the reconstructor's second training."""
REGRESSED: Final = 2000
"""Examples for the value head's beginning."""
SAID_EVERY: Final = 25
SORTED: Final = 16 * BATCH
"""Rows that are put in order of length and then cut into batches, which are read in any order."""


def main() -> int:
    """Read what is missing, train what is not trained, print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, required=True, help="folder of unpacked packages and generated texts")
    parser.add_argument("--out", type=Path, required=True, help="where everything goes")
    parser.add_argument("--begin", type=Path, help="folder of adapters to begin with, such as those of the demo")
    parser.add_argument("--examples", type=int, default=20_000, help="vectors to train on (default 20000)")
    for name, steps in STEPS.items():
        parser.add_argument(f"--{name}-steps", type=int, default=steps, help=f"of {BATCH} vectors (default {steps})")
    parser.add_argument("--checked", type=int, default=200, help="held-out vectors in the figures (default 200)")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    arguments.out.mkdir(parents=True, exist_ok=True)
    if torch.cuda.is_available():
        torch.set_default_device("cuda")
    tokenizer = load_tokenizer()
    training, held_out = read(arguments.corpus, arguments.out, tokenizer, arguments.examples)
    torch.manual_seed(0)
    reconstructor, verbalizer = Reconstructor(_base(), tokenizer), Verbalizer(_base(), tokenizer)
    if arguments.begin:
        for name, half in (("reconstructor", reconstructor), ("verbalizer", verbalizer)):
            half.load(arguments.begin / name)
    elif not (arguments.out / "reconstructor.pt").exists():
        reconstructor.begin(training[:REGRESSED])
    for name, half in (("reconstructor", reconstructor), ("verbalizer", verbalizer), ("again", reconstructor)):
        read_as = said(verbalizer, training[:SAID], arguments.out / "said.npz") if name == "again" else training
        fit(half, read_as, getattr(arguments, f"{name}_steps"), arguments.out / f"{name}.pt", seed=len(name))
    for name, half in (("reconstructor", reconstructor), ("verbalizer", verbalizer)):
        half.save(arguments.out / name)
    figures = evaluate.report(verbalizer.say, reconstructor.rebuild, held_out[: arguments.checked])
    sys.stdout.write(f"{figures}\n")
    return 0


def read(corpus: Path, out: Path, tokenizer: Any, count: int) -> tuple[Examples, Examples]:
    """The examples for training and those held out, of other documents; read from the model where they are missing."""
    paths = {False: out / "training.npz", True: out / "held-out.npz"}
    if not all(path.exists() for path in paths.values()):
        model, found = _base(), documents(corpus)
        for held_out, path in paths.items():
            some = [document for document in found if document.held_out == held_out]
            logger.info("reading %d documents into %s", len(some), path.name)
            wanted = HELD_OUT if held_out else count
            collect(model, tokenizer, some, count=wanted, seed=int(held_out)).save(path)
    training = Examples.load(paths[False])
    if len(training) != count:
        raise ValueError(f"{paths[False]} has {len(training)} examples, not {count}: delete it, or say --examples")
    return training, Examples.load(paths[True])


def said(verbalizer: Verbalizer, examples: Examples, path: Path) -> Examples:
    """Tell what the verbalizer says of vectors, and what it should say; a text that does not end is left out."""
    if not path.exists():
        logger.info("explaining %d vectors into %s", len(examples), path.name)
        replace(examples, explanations=np.array(verbalizer.say(examples.vectors))).save(path)
    own = Examples.load(path)
    return own[own.explanations != ""] + examples


def fit(half: Reconstructor | Verbalizer, examples: Examples, steps: int, path: Path, *, seed: int) -> None:
    """Train a half, from where it was left."""
    trained = {name: value for name, value in half.named_parameters() if value.requires_grad}
    head = [value for name, value in trained.items() if name.startswith("head.")]
    factors = [value for name, value in trained.items() if not name.startswith("head.")]
    groups = [{"params": factors, "peak": PEAK_RATE}, {"params": head, "peak": HEAD_RATE}]
    optimizer = torch.optim.AdamW([group for group in groups if group["params"]], weight_decay=0.0, betas=(0.9, 0.98))
    step = _resume(half, optimizer, path)
    lengths = np.char.str_len(examples.explanations)
    kept = time.monotonic()
    half.train()
    while step < steps:
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * _share(step, steps)
        loss: Any = half.loss(examples[_rows(step, lengths, seed)])
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


def _rows(step: int, lengths: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """A step's rows, of like length: each epoch in an order of its own, known from the step alone."""
    epoch, place = divmod(step, len(lengths) // BATCH)
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(len(lengths))
    mixed = [
        part[np.argsort(lengths[part], kind="stable")] for part in np.split(order, range(SORTED, len(order), SORTED))
    ]
    whole = [part[k : k + BATCH] for part in mixed for k in range(0, len(part) - BATCH + 1, BATCH)]
    rows: NDArray[np.int64] = whole[rng.permutation(len(whole))[place]]
    return rows


def _base() -> Any:
    return load_model(torch.bfloat16).to(torch.get_default_device())


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
    kept = torch.load(path, weights_only=True, map_location=torch.get_default_device())
    if half.load_state_dict(kept["trained"], strict=False).unexpected_keys:
        raise ValueError(f"{path} is of another half")
    optimizer.load_state_dict(kept["optimizer"])
    step: int = kept["step"]
    logger.info("%s: going on at step %d", path.stem, step)
    return step


if __name__ == "__main__":
    sys.exit(main())
