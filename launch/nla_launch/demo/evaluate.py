"""What the pair reaches on held-out examples, asked of a server: `python -m nla_launch.demo.evaluate EXAMPLES URL`."""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from nla_client import NLAClient, NLACritic
from nla_launch.demo.examples import Examples
from nla_launch.demo.targets import last_word

AMONG: Final = 40
"""Vectors that a text is to find its own among."""
SLOW_S: Final = 600.0
"""How long a request may take: dozens of texts on a busy machine."""
LONGEST: Final = 128
"""Tokens of an explanation, at most."""
Say = Callable[[NDArray[np.float32]], list[str]]
"""From vectors [N, d_model] to greedy texts, '' for one that does not end."""
Rebuild = Callable[[Sequence[str]], NDArray[np.float32]]
"""From texts to vectors [N, d_model]."""


def report(say: Say, rebuild: Rebuild, examples: Examples) -> str:
    """Form a table of figures."""
    figures = measure(say, rebuild, examples)
    return "\n".join(f"| {name} | {round(value, 3):g} |" for name, value in figures.items())


def measure(say: Say, rebuild: Rebuild, examples: Examples) -> dict[str, float]:
    """Measure what the halves make of vectors and of their true explanations."""
    wanted, told = normed(examples.vectors), examples.explanations.tolist()
    said = say(examples.vectors)
    # As `/critic` does, the rebuilt vectors are brought to one norm, too.
    true, rebuilt = normed(rebuild(told)), normed(rebuild(said))
    empty = np.repeat(normed(rebuild([""])), len(examples), axis=0)
    return {
        "vectors": len(examples),
        "complete": float(np.mean([text != "" for text in said])),
        "fve of the true explanations": fve(true, wanted),
        "fve of the verbalizer's": fve(rebuilt, wanted),
        "fve, texts shuffled": fve(np.roll(rebuilt, 1, axis=0), wanted),
        "fve, empty text": fve(empty, wanted),
        f"top-1 of {AMONG}": top1(rebuilt, wanted),
        "last word right": float(np.mean([last_word(a) == last_word(b) for a, b in zip(said, told, strict=True)])),
    }


def normed(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Vectors [N, d_model] at norm sqrt(d_model)."""
    at_norm: NDArray[np.float32] = vectors * np.sqrt(vectors.shape[1]) / np.linalg.norm(vectors, axis=1, keepdims=True)
    return at_norm


def fve(rebuilt: NDArray[np.float32], wanted: NDArray[np.float32]) -> float:
    """Share of variance explained: 1 - mse over that of the mean vector."""
    mean = wanted.mean(axis=0)
    return 1 - float(np.square(rebuilt - wanted).mean() / np.square(wanted - mean).mean())


def top1(rebuilt: NDArray[np.float32], wanted: NDArray[np.float32]) -> float:
    """How often a rebuilt vector is nearest, by cosine, to its own among 40; NaN for fewer vectors."""
    units = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (rebuilt, wanted)]
    found = 0
    whole = len(wanted) // AMONG * AMONG
    for start in range(0, whole, AMONG):
        near = units[0][start : start + AMONG] @ units[1][start : start + AMONG].T
        found += int((near.argmax(axis=1) == np.arange(AMONG)).sum())
    return found / whole if whole else float("nan")


@contextmanager
def served(url: str) -> Iterator[tuple[Say, Rebuild]]:
    """Ask a server."""
    with NLAClient(url, timeout=SLOW_S) as nla, NLACritic(url, timeout=SLOW_S) as critic:

        def say(vectors: NDArray[np.float32]) -> list[str]:
            # Some at a time: all at once, each request would take as long as all of them, on a slow machine too long.
            some = (vectors[start : start + AMONG] for start in range(0, len(vectors), AMONG))
            told = (one for few in some for one in nla.verbalize(few, temperature=0, max_tokens=LONGEST))
            return [one.text if one.complete else "" for one in told]

        yield say, lambda texts: critic.reconstruct(list(texts))


def main() -> int:
    """Print what a server reaches."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("examples", type=Path, help="vectors.npz of the pair, or held-out.npz of its training")
    parser.add_argument("url", help="of a running nla-serve")
    given = parser.parse_args()
    with served(given.url) as halves:
        sys.stdout.write(report(*halves, Examples.load(given.examples)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
