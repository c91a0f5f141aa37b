"""What the halves reach on held-out examples, by transformers."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from nla_launch.demo.smollm2.examples import Examples
from nla_launch.demo.smollm2.halves import Reconstructor, Verbalizer, normed

AMONG: Final = 40
"""Vectors that a text is to find its own among."""


def report(verbalizer: Verbalizer, reconstructor: Reconstructor, examples: Examples) -> str:
    """Form a table of figures."""
    wanted: NDArray[np.float32] = normed(examples.vectors).numpy()
    said = [text for k in range(0, len(examples), 50) for text in verbalizer.say(examples.vectors[k : k + 50])]
    # As `/critic` does, the rebuilt vectors are brought to one norm, too.
    true, rebuilt, empty = (
        normed(reconstructor.rebuild(texts)).numpy() for texts in (examples.explanations.tolist(), said, [""])
    )
    empty = np.repeat(empty, len(examples), axis=0)
    right = [_word(a) == _word(b) for a, b in zip(said, examples.explanations.tolist(), strict=True)]
    figures = {
        "vectors": f"{len(examples)}",
        "complete": f"{np.mean([text != '' for text in said]):.3f}",
        "fve of the true explanations": f"{fve(true, wanted):.3f}",
        "fve of the verbalizer's": f"{fve(rebuilt, wanted):.3f}",
        "fve, texts shuffled": f"{fve(np.roll(rebuilt, 1, axis=0), wanted):.3f}",
        "fve, empty text": f"{fve(empty, wanted):.3f}",
        f"top-1 of {AMONG}": f"{top1(rebuilt, wanted):.3f}",
        "last word right": f"{np.mean(right):.3f}",
    }
    return "\n".join(f"| {name} | {value} |" for name, value in figures.items())


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


def _word(explanation: str) -> str:
    return explanation.removeprefix("Read backwards from here: ").partition(" ")[0]
