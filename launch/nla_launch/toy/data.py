"""Synthetic activations: named concepts with random directions, weighted sums of them, and texts that name them."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

D_MODEL: Final = 256
NOISE: Final = 0.2
"""Norm of the noise, relative to the signal's."""

CONCEPTS: Final = (
    "cooking", "music", "football", "chess", "gardening", "sailing", "astronomy", "geology",
    "weather", "medicine", "law", "banking", "farming", "fishing", "painting", "poetry",
    "theatre", "cinema", "history", "politics", "religion", "philosophy", "physics", "chemistry",
    "biology", "algebra", "geometry", "statistics", "programming", "databases", "robots", "trains",
    "bridges", "clothing", "furniture", "travel", "French", "German", "Latin", "past tense",
    "future tense", "plural nouns", "questions", "negation", "irony", "anger", "joy", "grief",
)  # fmt: skip

STRENGTHS: Final = ((0.9, 1.1), (0.65, 0.8), (0.42, 0.55))
"""Ranges of the first, second and third concept's weight."""

EXPLANATIONS: Final = {
    1: ("All about {0}.", "Entirely about {0}."),
    2: ("Mostly {0}, with some {1}.", "Mainly about {0}, and partly about {1}."),
    3: ("Mostly {0}, with some {1} and a hint of {2}.", "Mainly about {0}, partly about {1}, with a trace of {2}."),
}
"""What the verbalizer learns to say, by the number of concepts, strongest first."""

NOTES: Final = {
    1: ("{0}", "{0}.", "about {0}", "This is about {0}.", "The text is about {0}", "{0} and nothing else"),
    2: ("{0}, {1}", "{0} and {1}", "{0}, some {1}", "This is about {0} and {1}.", "{0} with a bit of {1}"),
    3: ("{0}, {1}, {2}", "{0}, {1} and {2}", "This is about {0}, {1} and {2}.", "{0} with {1} and a little {2}"),
}
"""What people write instead; the reconstructor learns these too."""


@dataclass(frozen=True)
class Examples:
    """Vectors [n, D_MODEL] float32 with the concepts in each, strongest first."""

    vectors: NDArray[np.float32]
    concepts: list[tuple[str, ...]]


def directions() -> NDArray[np.float64]:
    """Return the concepts' unit directions [48, D_MODEL]; the same every time."""
    rows = np.random.default_rng(7).standard_normal((len(CONCEPTS), D_MODEL))
    unit: NDArray[np.float64] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


def is_held_out(concepts: tuple[str, ...]) -> bool:
    """Tell whether a combination is kept out of training: one in eight of those with two or three concepts."""
    if len(concepts) == 1:
        return False
    digest = hashlib.sha256("+".join(sorted(concepts)).encode()).digest()
    return digest[0] % 8 == 0


def sample(count: int, rng: np.random.Generator, *, held_out: bool) -> Examples:
    """Draw examples whose combinations are all held out, or all not."""
    chosen: list[tuple[int, ...]] = []
    while len(chosen) < count:
        size = int(rng.integers(2 if held_out else 1, 4))
        indices = tuple(int(i) for i in rng.choice(len(CONCEPTS), size, replace=False))
        if is_held_out(tuple(CONCEPTS[i] for i in indices)) == held_out:
            chosen.append(indices)
    vectors = np.stack([_vector(indices, rng) for indices in chosen])
    return Examples(vectors.astype(np.float32), [tuple(CONCEPTS[i] for i in indices) for indices in chosen])


def explain(concepts: tuple[str, ...], rng: np.random.Generator) -> str:
    """Name the concepts the way the verbalizer does."""
    return _fill(EXPLANATIONS, concepts, rng)


def note(concepts: tuple[str, ...], rng: np.random.Generator) -> str:
    """Name the concepts the way people do."""
    return _fill(NOTES, concepts, rng)


def named(text: str) -> set[str]:
    """Find the concepts that a text names."""
    return {concept for concept in CONCEPTS if concept.lower() in text.lower()}


def _vector(indices: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float64]:
    weights = np.array([rng.uniform(*STRENGTHS[rank]) for rank in range(len(indices))])
    signal = weights @ directions()[list(indices)]
    noise = rng.standard_normal(D_MODEL)
    noise *= NOISE * np.linalg.norm(signal) / np.linalg.norm(noise)
    vector: NDArray[np.float64] = (signal + noise) * rng.lognormal(mean=3.5, sigma=0.3)
    return vector


def _fill(templates: Mapping[int, tuple[str, ...]], concepts: tuple[str, ...], rng: np.random.Generator) -> str:
    options = templates[len(concepts)]
    return options[int(rng.integers(len(options)))].format(*concepts)
