"""Which characters of a text each token stands for: taken from the tokenizer's offsets, or found in a decoded text.

Knows how fast tokenizers split and decode; knows nothing of chats or requests. A span is (start, end) in characters.
Spans are in order, cover the whole text, and overlap only where tokens share characters, as pieces of one do; a token
without characters stands, empty, at the end of the one before it.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Final, Self

from nla_gateway.pair.transformers import import_transformers

Span = tuple[int, int]

SPACE: Final = "\u2581"
"""What SentencePiece writes for a space."""
BYTE: Final = re.compile(r"<0x([0-9A-Fa-f]{2})>")
REPLACEMENT: Final = "\ufffd"


def keep_spaces(tokenizer: Any) -> None:
    """Have a fast tokenizer count the spaces before a word among its characters, where it trims them from offsets."""
    processor = tokenizer.backend_tokenizer.post_processor
    if processor is None:
        return
    state = processor.__getstate__()
    kept = re.sub(rb'"trim_offsets":\s*true', b'"trim_offsets":false', state)
    if kept != state:
        processor.__setstate__(kept)
        tokenizer.backend_tokenizer.post_processor = processor


def mended(text: str, offsets: Sequence[Span], tokens: Sequence[str], added: Sequence[bool]) -> list[Span]:
    """Make spans of a fast tokenizer's offsets.

    A space that is not in the text (Llama 2 puts one before it) shares its character with the next token in offsets;
    here it has none, nor has what the tokenizer added itself, such as a BOS.

    Args:
        text: what was tokenized.
        offsets: as the tokenizer gives them.
        tokens: the tokens as the vocabulary spells them.
        added: whether the tokenizer put a token there that is not in the text.
    """
    nexts = [*offsets, (0, 0)][1:] if offsets else []
    return _covering(
        [
            (0, 0) if ours or (token == SPACE and following[0] <= start < following[1]) else (start, end)
            for (start, end), following, token, ours in zip(offsets, nexts, tokens, added, strict=True)
        ],
        len(text),
    )


def _covering(spans: Sequence[Span], length: int) -> list[Span]:
    """Put spans in order and close their gaps.

    Characters that no token has were composed into those before them (NFC), or dropped: they go to the tokens that
    end there, at the text's beginning to the ones that come first.
    """
    starts: list[int] = []
    ends: list[int] = []
    for start, end in spans:
        at, reach = (starts[-1], ends[-1]) if starts else (0, 0)
        if end <= start:
            starts.append(reach)
            ends.append(reach)
            continue
        if reach == 0:  # nothing before it has characters
            starts.append(0)
        else:
            if start > reach:
                _extend(starts, ends, reach, start)
            starts.append(max(start, at))
        ends.append(max(end, reach))
    if ends and ends[-1] > 0:
        _extend(starts, ends, ends[-1], length)
    return list(zip(starts, ends, strict=True))


def _extend(starts: list[int], ends: list[int], old: int, new: int) -> None:
    """Move the ends at `old` to `new`; empty spans move as a whole."""
    for index in range(len(ends) - 1, -1, -1):
        if ends[index] != old:
            return
        if starts[index] == old:
            starts[index] = new
        ends[index] = new


@dataclass(frozen=True)
class Decoder:
    """A fast tokenizer's way from ids to text, with what is known of its steps."""

    tokenizer: Any = field(repr=False)
    letters: Mapping[str, int] | None = field(repr=False)
    """Byte of each letter, where tokens are spelled in bytes (byte-level BPE)."""
    has_bytes: bool
    """Whether tokens such as <0xE4> are bytes (SentencePiece's byte fallback)."""
    has_spaces: bool
    """Whether spaces are spelled otherwise."""

    @classmethod
    def of(cls, tokenizer: Any) -> Self:
        """Look at a tokenizer's decoder."""
        decoder = tokenizer.backend_tokenizer.decoder
        steps = list(_steps(json.loads(decoder.__getstate__()))) if decoder else []
        types = {step["type"] for step in steps}
        replaces = any(step["type"] == "Replace" and step["pattern"].get("String") == SPACE for step in steps)
        letters = _letters() if "ByteLevel" in types else None
        return cls(tokenizer, letters, "ByteFallback" in types, replaces or "Metaspace" in types)

    def read(self, ids: Sequence[int]) -> tuple[str, list[Span]]:
        """Decode ids, and find each token's characters.

        What is no UTF-8 becomes U+FFFD; its pieces share that one.
        """
        text = str(self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))
        built, spans = self._laid_out(self.tokenizer.convert_ids_to_tokens(list(ids)))
        if built == " " + text:  # Llama 2 takes off the space that it would have put there
            spans = [(max(start - 1, 0), max(end - 1, 0)) for start, end in spans]
        elif built != text:
            spans = self._streamed(ids, text)
        return text, _covering(spans, len(text))

    def _laid_out(self, tokens: Sequence[str]) -> tuple[str, list[Span]]:
        """Lay the tokens' bytes side by side, and see which characters they come to."""
        texts, spans, at = [], [], 0
        for apart, run in groupby(map(self._bytes, tokens), key=lambda piece: piece[1]):
            pieces = [data for data, _ in run]
            text, owners = _characters(b"".join(pieces), apart=apart)
            position = 0
            for data in pieces:
                mine = owners[position : position + len(data)]
                spans.append((at + mine[0], at + mine[-1] + 1) if mine else (at, at))
                position += len(data)
            texts.append(text)
            at += len(text)
        return "".join(texts), spans

    def _bytes(self, token: str) -> tuple[bytes, bool]:
        """Spell a token in bytes, and tell whether it is one by the fallback."""
        if self.letters is not None:
            found = [self.letters.get(letter) for letter in token]
            return (token.encode() if None in found else bytes(byte for byte in found if byte is not None)), False
        if self.has_bytes and (byte := BYTE.fullmatch(token)):
            return bytes.fromhex(byte[1]), True
        return (token.replace(SPACE, " ") if self.has_spaces else token).encode(), False

    def _streamed(self, ids: Sequence[int], text: str) -> list[Span]:
        """Find spans of a decoder with other steps: coarse ones, of what comes whole out of it at once."""
        from tokenizers.decoders import DecodeStream

        stream, spans, at = DecodeStream(skip_special_tokens=False), list[Span](), 0
        for index, token in enumerate(ids):
            try:
                piece = stream.step(self.tokenizer.backend_tokenizer, token)
            except Exception:  # its class is the library's own affair: what was decoded does not go on as it began
                break
            if piece is None:
                continue
            if not text.startswith(piece, at):
                break
            spans += [(at, at + len(piece))] * (index + 1 - len(spans))
            at += len(piece)
        return spans + [(at, len(text))] * (len(ids) - len(spans))


def _steps(state: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield state
    for step in state.get("decoders", ()):
        yield from _steps(step)


def _letters() -> dict[str, int]:
    import_transformers()
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return {letter: byte for byte, letter in bytes_to_unicode().items()}


def _characters(data: bytes, *, apart: bool) -> tuple[str, list[int]]:
    """Decode bytes, and tell for each the index of its character.

    Args:
        data: the bytes.
        apart: whether one byte that is no UTF-8 makes every byte a U+FFFD of its own, as the fallback has it.
    """
    texts, owners, count, at = [], list[int](), 0, 0
    while at < len(data):
        bad = 0
        try:
            good = data[at:].decode()
        except UnicodeDecodeError as error:
            if apart:
                return REPLACEMENT * len(data), list(range(len(data)))
            good, bad = data[at : at + error.start].decode(), error.end - error.start
        sizes = [len(character.encode()) for character in good] + [bad] * (bad > 0)
        for size in sizes:
            owners += [count] * size
            count += 1
        texts.append(good + REPLACEMENT * (bad > 0))
        at += sum(sizes)
    return "".join(texts), owners
