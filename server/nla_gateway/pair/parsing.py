"""Explanations out of generated text: what stands between the tags."""

from typing import Final

OPENING: Final = "<explanation>"
CLOSING: Final = "</explanation>"


def parse(generated: str) -> tuple[str, bool]:
    """Return the explanation, stripped, and whether it is complete (the closing tag came)."""
    body = generated.split(OPENING, 1)[-1]
    text, closing, _ = body.partition(CLOSING)
    return text.strip(), bool(closing)


class DeltaParser:
    """Explanation text as it grows: feeds on the text so far, gives what is new and certain.

    What could still turn out to be a tag, or white space at the end, is held back. Joined, the deltas are the
    explanation, except where text precedes the opening tag.
    """

    def __init__(self) -> None:
        self.given = ""
        """All deltas so far, joined."""

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
        if OPENING not in generated and OPENING.startswith(generated.lstrip()[: len(OPENING)]):
            return ""
        return parse(generated)[0] if CLOSING in generated else generated.split(OPENING, 1)[-1].lstrip()

    def _new(self, text: str) -> str:
        if not text.startswith(self.given):
            return ""
        new = text[len(self.given) :]
        self.given = text
        return new
