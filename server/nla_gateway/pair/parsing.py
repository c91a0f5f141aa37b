"""Explanations out of generated text: what stands between the tags, after whatever the model thought first."""

import re
from dataclasses import dataclass
from typing import Final

from nla_gateway.description import Tags

OPENING: Final = "<explanation>"
CLOSING: Final = "</explanation>"
AT_ONCE: Final = rf"\A\s*{OPENING}[\s\S]*{CLOSING}"
"""An explanation that begins the answer, and so follows no thought."""


@dataclass(frozen=True)
class Thought:
    """The tags of a think block."""

    opening: str
    closing: str


THINK: Final = Thought("<think>", "</think>")
THOUGHTS: Final = (
    THINK,
    Thought("[THINK]", "[/THINK]"),
    Thought("<thinking>", "</thinking>"),
    Thought("<mm:think>", "</mm:think>"),
    Thought("◁think▷", "◁/think▷"),
    Thought("<|START_THINKING|>", "<|END_THINKING|>"),
    Thought("<|inner_prefix|>", "<|inner_suffix|>"),
    Thought("<|channel>", "<channel|>"),
)
"""Of all families that have a pair of them: DeepSeek, Qwen and many more the first, then Mistral and so on."""


@dataclass(frozen=True)
class Form:
    """What a verbalizer's answers look like, by its prompt and its tokenizer."""

    tags: Tags = "both"
    """Which of them it has; with none, all of a text that ended by itself is an explanation."""
    thinks: Thought | None = None
    """The think block in which the prompt ends."""
    may_think: Thought | None = None
    """The think block with which, or inside of which, an answer may begin: its tokenizer knows the tags."""

    @property
    def stops(self) -> dict[str, list[str]]:
        """Where the engine is to stop, as SGLang's sampling parameters: at what surely is the closing tag.

        Thoughts may name it, too. So where an answer may have begun inside of one, it goes on, and `parse` sees all of
        it. A pattern is looked for in all of an answer at each token, a string at its end alone.
        """
        thought = self.thinks or self.may_think
        if thought is None:
            return {"stop": [CLOSING]}
        behind_a_thought = rf"{re.escape(thought.closing)}[\s\S]*{CLOSING}"
        return {"stop_regex": [behind_a_thought] if self.thinks else [behind_a_thought, AT_ONCE]}

    def stopped_by(self, matched: str) -> bool:
        """Whether that is what made the engine stop."""
        return any(matched in values for values in self.stops.values())

    @property
    def thoughts(self) -> tuple[Thought, ...]:
        """Think blocks that an answer may open itself: any, where its tokenizer does not tell which."""
        return THOUGHTS if self.may_think is None else (self.may_think,)

    def thought(self, generated: str) -> Thought | None:
        """The think block inside of which an answer surely begins."""
        opened = (one for one in self.thoughts if generated.lstrip().startswith(one.opening))
        return self.thinks or next(opened, None)

    def may_be_a_thought(self, generated: str) -> bool:
        """Whether an answer with tags may yet turn out to have begun inside of one, so that none of it counts."""
        block = self.may_think
        if block is None or self.tags != "both" or _is_explained_at_once(generated):
            return False
        return block.closing not in generated


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
        thought = form.thought(generated)
        return generated.strip().removeprefix(thought.opening if thought else "").strip(), False
    text, closing, _ = _opened(answer, form).partition(CLOSING)
    return text.strip(), bool(closing) or (ended and form.tags == "none")


def _opened(answer: str, form: Form) -> str:
    """What follows the opening tag. Where the prompt ends with it, one in mid-answer is part of the text."""
    if form.tags == "closing":
        return answer.lstrip().removeprefix(OPENING)
    return answer.split(OPENING, 1)[-1]


def _answer(generated: str, form: Form) -> str | None:
    """What follows the think block, if there is one; None while it lasts."""
    thought = form.thought(generated)
    begun = thought or (None if _is_explained_at_once(generated) else form.may_think)
    if begun is None:
        return generated
    _, closing, answer = generated.partition(begun.closing)
    if closing:
        return answer
    return None if thought else generated


def _is_explained_at_once(generated: str) -> bool:
    """Whether the explanation begins the answer, and so follows no thought."""
    return generated.lstrip().startswith(OPENING)


class DeltaParser:
    """Explanation text as it grows: feeds on the text so far, gives what is new and certain.

    What could still turn out to be a tag, a thought before one, or white space at the end, is held back. Joined, the
    deltas are the explanation, except where text without tags turns out to be a thought, or precedes the opening tag.
    """

    def __init__(self, form: Form = TAGGED) -> None:
        self.given = ""
        """All deltas so far, joined."""
        self._form = form

    def feed(self, generated: str) -> str:
        """Return the new part of the explanation, given all the text generated so far."""
        body, block = self._body(generated), self._form.may_think
        tags = (CLOSING,) if block is None else (CLOSING, block.closing)
        return self._new(body[: len(body) - max(_begun(body, tag) for tag in tags)].rstrip())

    def finish(self, text: str) -> str:
        """Return what is missing, given the parsed explanation."""
        return self._new(text)

    def _body(self, generated: str) -> str:
        form, answer = self._form, _answer(generated, self._form)
        if answer is None or form.may_be_a_thought(generated):
            return ""
        tags = [one.opening for one in form.thoughts] + ([] if OPENING in answer else [OPENING])
        if any(_begins(answer, tag) for tag in tags):
            return ""
        return parse(generated, form)[0] if CLOSING in answer else _opened(answer, form).lstrip()

    def _new(self, text: str) -> str:
        if not text.startswith(self.given):
            return ""
        new = text[len(self.given) :]
        self.given = text
        return new


def _begun(text: str, tag: str) -> int:
    """Characters of a tag with which a text ends, short of all of it."""
    return next((length for length in range(len(tag) - 1, 0, -1) if text.endswith(tag[:length])), 0)


def _begins(text: str, tag: str) -> bool:
    """Whether text could be the beginning of a tag."""
    return tag.startswith(text.lstrip()[: len(tag)])
