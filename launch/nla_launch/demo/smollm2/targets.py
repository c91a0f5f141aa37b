"""What an explanation says: three lines, made from the text before a token and from the model's own next words."""

from collections.abc import Sequence
from typing import Final

LONGEST: Final = 24
"""Characters of a word that are shown: links and rules have hundreds."""
WORDS: Final = 8
"""Words that are named, the last one first: what a vector tells best, and a verbalizer can learn to say first."""
LIKELY: Final = 3


def explanation(before: str, kind: str, likely: Sequence[str]) -> str:
    """Form an explanation.

    Args:
        before: the text up to and with the token that is read.
        kind: of passage.
        likely: the model's likeliest continuations, the likeliest first, each a token's text.
    """
    words = [word[-LONGEST:] for word in before.split()[-WORDS:][::-1]]
    following = list(dict.fromkeys(_shown(text) for text in likely))[:LIKELY]
    return f"Read backwards from here: {' '.join(words)}\nKind of text: {kind}\nLikely next: {', '.join(following)}"


def _shown(text: str) -> str:
    if text.strip():
        return text.strip()
    return "a new line" if "\n" in text else "a space" if text else "the end"
