"""Which tokens of a text are meant, and which of them read badly.

Knows the contract's tokens; knows no tokenizer and no engine.
"""

from collections.abc import Sequence
from typing import Final

from nla_client.wire import ChoiceOfPositions, PositionWord, Token
from nla_gateway.errors import InvalidRequest
from nla_gateway.pair.texts import SourceText

FIRST: Final = 10
"""Positions at a text's beginning whose activations are unlike all others."""
FAR: Final = 3.0
"""Factor between norms, up or down, that is remarked on."""


def choices(positions: PositionWord | Sequence[PositionWord | int | list[int]], count: int) -> list[ChoiceOfPositions]:
    """Say which positions are chosen in each text.

    Args:
        positions: of a request: one choice for all texts (a word, or a list of numbers), or a list of such, one a text.
        count: of the texts.

    Raises:
        InvalidRequest: an empty or mixed list, or another number of choices than texts.
    """
    if isinstance(positions, str):
        return [positions] * count
    numbers = [choice for choice in positions if isinstance(choice, int)]
    each = [choice for choice in positions if not isinstance(choice, int)]
    if not positions:
        raise InvalidRequest("positions: the list is empty: choose at least one", param="positions")
    if numbers and each:
        raise InvalidRequest(
            "positions: numbers and choices for one text each are mixed: send a list of numbers for every text, or one"
            " choice a text",
            param="positions",
        )
    if numbers:
        return [numbers] * count
    if len(each) != count:
        raise InvalidRequest(
            f"positions: there are {len(each)} choices and {count} texts: send one choice a text", param="positions"
        )
    return list(each)


def names(positions: PositionWord | Sequence[PositionWord | int | list[int]], count: int) -> list[str]:
    """Name each text's choice in errors: `positions`, where it is the same for all, or `positions[1]`."""
    if isinstance(positions, str) or any(isinstance(choice, int) for choice in positions):
        return ["positions"] * count
    return [f"positions[{index}]" for index in range(count)]


def choose(choice: ChoiceOfPositions, text: SourceText, param: str, name: str = "the text") -> list[int]:
    """Say which positions of a text are chosen, from 0, each once, in ascending order.

    Args:
        choice: "last", "all", "content" (what messages say, without special tokens), or numbers, negative from the end.
        text: the text.
        param: the choice's name in errors.
        name: the text's.

    Raises:
        InvalidRequest: a number out of range, or nothing is chosen.
    """
    count = len(text.tokens)
    match choice:
        case "last":
            chosen = [count - 1]
        case "all":
            chosen = list(range(count))
        case "content":
            chosen = [token.position for token in text.tokens if token.content and not token.special]
            if not chosen:
                raise InvalidRequest(
                    f"{param}: {name} has no content, only special tokens and what the template writes: choose"
                    ' "last", "all" or numbers',
                    param=param,
                )
        case _:
            if choice and not -count <= min(choice) <= max(choice) < count:
                raise _out_of_range(choice, count, param, name)
            chosen = sorted({position % count for position in choice})
    if not chosen:
        raise InvalidRequest(f"{param}: no position is chosen: choose at least one", param=param)
    return chosen


def _out_of_range(choice: Sequence[int], count: int, param: str, name: str) -> InvalidRequest:
    at, position = next((at, it) for at, it in enumerate(choice) if not -count <= it < count)
    return InvalidRequest(
        f"{param}[{at}]: {position} is out of range: {name} has {count} tokens, {-count} to {count - 1}",
        param=f"{param}[{at}]",
    )


def remark(token: Token, norm: float, typical: float | None) -> str | None:
    """Say in plain words why a place reads badly; None where nothing is known against it.

    Args:
        token: the place.
        norm: of its activation, before any scaling.
        typical: median norm of the layer; None where it is not known.
    """
    reasons = []
    if token.position < FIRST:
        reasons.append(f"among the first {FIRST} positions, whose activations are unlike all others")
    if token.special:
        reasons.append("a special token")
    elif not token.content:
        reasons.append("written by the chat template")
    if typical and not typical / FAR <= norm <= typical * FAR:
        reasons.append(f"its norm of {norm:.4g} is far from the layer's usual {typical:.4g}")
    return "; ".join(reasons) or None
