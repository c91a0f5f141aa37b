"""Explanations out of generated text: what stands between the tags, after whatever the model thought first."""

from dataclasses import dataclass
from typing import Final

from nla_gateway.description import Tags

OPENING: Final = "<explanation>"
CLOSING: Final = "</explanation>"
THINKING: Final = "<think>"
THOUGHT: Final = "</think>"
BEHIND_A_THOUGHT: Final = rf"{THOUGHT}[\s\S]*{CLOSING}"
NO_THOUGHT: Final = "|".join(
    # Not by looking ahead: SGLang logs a warning for each pattern that does.
    [CLOSING, rf"[^<\s][\s\S]*{CLOSING}"]
    + [rf"{THINKING[:at]}[^{THINKING[at]}][\s\S]*{CLOSING}" for at in range(1, len(THINKING))]
)


@dataclass(frozen=True)
class Form:
    """What a verbalizer's answers look like, by its prompt."""

    tags: Tags = "both"
    """Which of them it has; with none, all of a text that ended by itself is an explanation."""
    thinks: bool = False
    """Whether the prompt ends inside a think block."""
    may_think: bool = False
    """Whether an answer may begin with a think block: its tokenizer knows them, and the prompt has none yet."""

    @property
    def stops(self) -> dict[str, list[str]]:
        """Where the engine is to stop, as SGLang's sampling parameters: at what `parse` takes for the closing tag.

        Thoughts may name it, too. A pattern is looked for in all of an answer at each token, a string at its end alone.
        """
        if self.thinks:
            return {"stop_regex": [BEHIND_A_THOUGHT]}
        if self.may_think:
            return {"stop_regex": [BEHIND_A_THOUGHT, rf"\A\s*(?:{NO_THOUGHT})"]}
        return {"stop": [CLOSING]}

    def stopped_by(self, matched: str) -> bool:
        """Whether that is what made the engine stop."""
        return any(matched in values for values in self.stops.values())


TAGGED: Final = Form()


def parse(generated: str, form: Form = TAGGED, *, ended: bool = False) -> tuple[str, bool]:
    """Return the explanation, stripped, and whether it is complete.

    Args:
        generated: all the text, special tokens cut off its end.
        form: what to look for.
        ended: whether the text ended by itself, and not at its limit.
    """
    answer = _answer(generated, form)
    if answer is None:
        return generated.strip().removeprefix(THINKING).strip(), False
    text, closing, _ = _opened(answer, form).partition(CLOSING)
    return text.strip(), bool(closing) or (ended and form.tags == "none")


def _opened(answer: str, form: Form) -> str:
    """What follows the opening tag. Where the prompt ends with it, one in mid-answer is part of the text."""
    if form.tags == "closing":
        return answer.lstrip().removeprefix(OPENING)
    return answer.split(OPENING, 1)[-1]


def _answer(generated: str, form: Form) -> str | None:
    """What follows the think block, if there is one; None while it lasts."""
    if not form.thinks and not generated.lstrip().startswith(THINKING):
        return generated
    _, thought, answer = generated.partition(THOUGHT)
    return answer if thought else None


class DeltaParser:
    """Explanation text as it grows: feeds on the text so far, gives what is new and certain.

    What could still turn out to be a tag, or white space at the end, is held back. Joined, the deltas are the
    explanation, except where text precedes the opening tag.
    """

    def __init__(self, form: Form = TAGGED) -> None:
        self.given = ""
        """All deltas so far, joined."""
        self._form = form

    def feed(self, generated: str) -> str:
        """Return the new part of the explanation, given all the text generated so far."""
        body = self._body(generated)
        for length in range(len(CLOSING) - 1, 0, -1):
            if body.endswith(CLOSING[:length]):
                body = body[:-length]
                break
        return self._new(body.rstrip())

    def finish(self, text: str) -> str:
        """Return what is missing, given the parsed explanation."""
        return self._new(text)

    def _body(self, generated: str) -> str:
        answer = _answer(generated, self._form)
        if answer is None or _begins(answer, THINKING) or (OPENING not in answer and _begins(answer, OPENING)):
            return ""
        return parse(generated, self._form)[0] if CLOSING in answer else _opened(answer, self._form).lstrip()

    def _new(self, text: str) -> str:
        if not text.startswith(self.given):
            return ""
        new = text[len(self.given) :]
        self.given = text
        return new


def _begins(text: str, tag: str) -> bool:
    """Whether text could be the beginning of a tag."""
    return tag.startswith(text.lstrip()[: len(tag)])
