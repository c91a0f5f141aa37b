"""Large bodies of requests: wrong in every way that could cost more than to read them, and right ones as large."""

from collections.abc import Iterator
from typing import Final

from nla_gateway.api.json_route import MOST_NUMBERS

PLACES: Final = (
    ("/verbalize", b"vectors"), ("/reconstruct", b"texts"), ("/critic", b"texts"), ("/ablate", b"vectors"),
    ("/tokenize", b"token_ids"), ("/extract", b"chats"), ("/explain", b"texts"), ("/explain", b"positions"),
)  # fmt: skip
"""Calls, and lists that they have."""
NUMBERS: Final = (b"token_ids", b"positions")
"""Of numbers."""
ELEMENTS: Final = {
    "numbers": b"1",
    "fractions": b"0.5",
    "nulls": b"null",
    "empty lists": b"[]",
    "empty objects": b"{}",
    "empty strings": b'""',
    "short strings": b'"ab"',
    "strings of a backslash": b'"\\\\"',
    "strings of a quote": b'"\\""',
    "lists of a list": b"[[]]",
    "lists of a number": b"[1]",
    "lists of a string": b'["last"]',
    "lists of an object": b"[{}]",
    "objects of a string": b'{"role":""}',
    "messages": b'{"role":"a","content":""}',
}
"""What a list may have millions of."""
MANY_NAMES: Final = 2**16


def wrong_bodies(field: bytes, size: int) -> Iterator[tuple[str, bytes]]:
    """Form bodies of so many bytes, one after the other, each with its name."""
    start = b'{"' + field + b'":'
    for name, element in ELEMENTS.items():
        yield name, filled(start + b"[", element + b",", element + b"]}", size)
    if field in NUMBERS:
        yield "numbers in a row", padded(filled(start + b"[1", b",1", b"]}", min(size, 2 * MOST_NUMBERS)), size)
    yield "one wrong element at the end", filled(start + b'["', b"A", b'",1]}', size)
    yield "unknown fields", b"".join([start + b'""', *_names(size), b"}"])
    yield "an unknown field of a long name", filled(b'{"', b"a", b'":1}', size)
    yield "one field again and again", filled(start + b'""', b',"' + field + b'":""', b"}", size)
    yield "lists in lists", filled(start, b"[", b"", size)
    yield "objects in objects", filled(b"", start, b"", size)
    yield "a number of many digits", filled(b'{"dtype":', b"1", b"}", size)
    yield "a fraction of many digits", filled(b'{"dtype":0.', b"1", b"}", size)
    yield "one long string", filled(start + b'"', b"A", b'"}', size)
    yield "one long string of escapes", filled(start + b'"', b"\\u00e9", b'"}', size)
    yield "one long string of escaped quotes", filled(start + b'"', b'\\"', b'"}', size)
    yield "a string without an end", filled(start + b'"', b"A", b"", size)
    yield "white space alone", b" " * size
    yield "no text", filled(start + b'"', b"A", b'\xff"}', size)
    yield "something behind it", filled(start + b'"', b"A", b'"}}', size)


def right_bodies(field: bytes, size: int) -> Iterator[bytes]:
    """Form bodies of so many bytes that have the form that is asked for, if not the sense."""
    before, behind = (b'[{"role":"a","content":"', b'"}]}') if field == b"chats" else (b'["', b'"]}')
    start = b'{"' + field + b'":'
    if field in NUMBERS:
        yield padded(filled(start + b"[[1", b",1", b"]]}", min(size, 2 * MOST_NUMBERS)), size)
        return
    yield filled(start + before, b"\\u00e9", behind, size)
    yield filled(start + before, b'\\"', behind, size)
    yield padded(start + before + behind, size)


def filled(start: bytes, unit: bytes, end: bytes, size: int) -> bytes:
    """Put as many units between start and end as fit."""
    return start + unit * ((size - len(start) - len(end)) // len(unit)) + end


def padded(body: bytes, size: int) -> bytes:
    """Make a body as large by white space, which changes nothing."""
    return body.ljust(size)


def _names(size: int) -> Iterator[bytes]:
    """Fields of many names."""
    block = b"".join(b',"%d":1' % number for number in range(MANY_NAMES))
    for _ in range((size - 100) // len(block)):
        yield block
