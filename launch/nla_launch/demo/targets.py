"""What an explanation says: four lines, made from the text before a token and from the model's own next words."""

import re
from collections.abc import Sequence
from typing import Final

LONGEST: Final = 24
"""Characters of a word that are shown: links and rules have hundreds."""
WORDS: Final = 4
LIKELY: Final = 3
NEW_LINE: Final = "¶"


def explanation(before: str, kind: str, likely: Sequence[str]) -> str:
    """Form an explanation.

    The words stand at its end, in their own order, so that it ends as the text that was read does: from there a linear
    head finds much of the vector without any training (fve 0.60 of eight words; behind words in backward order, or a
    suffix, 0.2). The last one, which the vector tells best, is said before them: a verbalizer that must guess the
    others first often ends with another, or does not end.

    Args:
        before: the text up to and with the token that is read.
        kind: of passage.
        likely: the model's likeliest continuations, the likeliest first, each a token's text.
    """
    words = [word[-LONGEST:] for word in re.sub(r"\s*\n\s*", f" {NEW_LINE} ", before).split()[-WORDS:]]
    following = list(dict.fromkeys(_shown(text) for text in likely))[:LIKELY]
    last = words[-1] if words else ""
    return f"Kind of text: {kind}\nLikely next: {', '.join(following)}\nLast word: {last}\nJust read: {' '.join(words)}"


def last_word(explanation: str) -> str:
    """Read back the word that was read last."""
    return explanation.rpartition(" ")[2]


def kind_of(explanation: str) -> str:
    """Read back the kind of passage."""
    return explanation.partition("\n")[0].partition(": ")[2]


def _shown(text: str) -> str:
    if text.strip():
        return text.strip()
    return "a new line" if "\n" in text else "a space" if text else "the end"
