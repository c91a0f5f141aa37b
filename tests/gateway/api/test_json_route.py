"""Wrong bodies: what is said of them, and that one costs no more than to read it."""

import gc
import json
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import httpx
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from nla_client.wire import (
    AblateRequest,
    CriticRequest,
    ExplainRequest,
    ExtractRequest,
    ReconstructRequest,
    TextRequest,
    TokenizeRequest,
    VerbalizeRequest,
)
from nla_gateway.api import json_route
from nla_gateway.api.json_route import CHUNK, MOST_IN_A_ROW, MOST_NUMBERS, Excess, Form, excess_in, refused
from nla_gateway.errors import InvalidRequest, PayloadTooLarge, RequestError
from nla_gateway.limits import GatewayLimits
from tests.bodies import PLACES, right_bodies, wrong_bodies
from tests.errors import error_in
from tests.gateway.process import Running, gateway

JSON = "application/json"
NO_OBJECT = "the body must be a JSON object, sent with content-type: application/json"
MB = 2**20


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with gateway(GatewayLimits()) as running:
        yield running


MOST = 2 * 512 + 64
"""Strings that the gateway takes by default."""
LONGEST = MB
"""Bytes of a string that it always takes."""


def refusal(running: Running, body: bytes, content_type: str | None = JSON) -> tuple[str, str | None]:
    headers = {} if content_type is None else {"content-type": content_type}
    reply = httpx.post(f"{running.url}/reconstruct", content=body, headers=headers, trust_env=False, timeout=60)
    assert reply.status_code == 400, reply.text
    error = error_in(reply)
    return error.message, error.param


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b'"text"'])
def test_what_is_no_object(running: Running, body: bytes) -> None:
    assert refusal(running, body) == (NO_OBJECT, None)


@pytest.mark.parametrize("content_type", [None, "text/plain", "text/json", "application/x-www-form-urlencoded"])
def test_what_is_not_said_to_be_json(running: Running, content_type: str | None) -> None:
    assert refusal(running, b'{"texts": [1]}', content_type) == (NO_OBJECT, None)


@pytest.mark.parametrize("content_type", ["Application/JSON; charset=utf-8", "application/vnd.lab+json"])
def test_what_is_said_to_be_json_in_other_words(running: Running, content_type: str) -> None:
    assert refusal(running, b'{"texts": [1]}', content_type)[1] == "texts[0]"


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b'{"texts": ', "input data was truncated"),
        (b'{"texts": NaN}', "invalid character (byte 10)"),
        (b'{"texts": "a"} x', "trailing characters (byte 16)"),
        (b'{"texts": "\xff"}', "its text is not UTF-8"),
        (b'{"texts": "\\ud800 and no other half"}', "unexpected end of escaped utf-16 surrogate pair (byte 17)"),
        (b'{"texts": "\\ud800"}', "unexpected end of escaped utf-16 surrogate pair (byte 17)"),
        (b'{"\\ud800": 1}', "unexpected end of escaped utf-16 surrogate pair (byte 8)"),
        (b'{"texts": "\\u0041', "input data was truncated"),
        (b'\xef\xbb\xbf{"texts": "a"}', "invalid character (byte 0)"),
        (b'{"texts": "a", "dtype": 1e999}', "dtype: number out of range"),
        (b'{"texts": "a", "dtype": ' + b"9" * 5000 + b"}", "dtype: integer value out of range"),
    ],
)
def test_what_is_no_json(running: Running, body: bytes, problem: str) -> None:
    assert refusal(running, body) == (f"the body is not valid JSON: {problem}", None)


@pytest.mark.parametrize(
    ("body", "message", "param"),
    [
        (b'{"one": 1, "two": 2}', "unknown field 'one'", "one"),
        (b'{"texts": "a", "one": 1, "two": 2}', "unknown field 'one'", "one"),
        (b'{"dtype": "float32"}', "texts: field required", "texts"),
        (b'{"texts": 1}', "texts: expected a string or a list, not a number", "texts"),
        (b'{"texts": null}', "texts: expected a string or a list, not null", "texts"),
        (b'{"texts": ["a", ["b"]]}', "texts[1]: expected a string, not a list", "texts[1]"),
        (b'{"texts": []}', "texts: list should have at least 1 item after validation, not 0", "texts"),
        (b'{"texts": "a", "dtype": {}}', "dtype: expected one value, not an object", "dtype"),
        (b'{"texts": "a", "dtype": "x"}', "dtype: input should be 'bfloat16' or 'float32'", "dtype"),
    ],
)
def test_what_has_another_form(running: Running, body: bytes, message: str, param: str) -> None:
    assert refusal(running, body) == (message, param)


def read_texts(**body: Any) -> TextRequest:
    """As the route reads it."""
    fields = Form(ExplainRequest).read(orjson.dumps(body), MOST, LONGEST)
    try:
        return ExplainRequest.model_validate(fields)
    except ValidationError as error:
        raise refused(error) from None


@pytest.mark.parametrize(
    "body",
    [
        {"texts": ["a"], "positions": "all"},
        {"chats": [{"role": "user", "content": "x"}], "positions": [1, -1]},
        {"chats": [[{"role": "user", "content": "x"}], [{"role": "user", "content": "y"}]], "positions": ["last", [1]]},
        {"token_ids": [1, 2], "chat_template_kwargs": {"enable_thinking": False}},
        {"token_ids": [[1], [2, 3]], "n": 2},
    ],
)
def test_texts_in_all_forms(body: dict[str, Any]) -> None:
    assert read_texts(**body).model_dump(include=set(body)) == body


@pytest.mark.parametrize(
    ("body", "message", "param"),
    [
        ({"chats": [[{"role": "user", "content": 3}]]}, "expected a string, not a number", "chats[0][0]"),
        ({"chats": [{"role": "a"}]}, "field required", "chats[0].content"),
        ({"chats": [[{"role": "a", "content": "b", "name": "c"}]]}, "extra inputs", "chats[0][0].name"),
        ({"chats": [{}]}, "the object is empty", "chats[0]"),
        ({"chats": [[{"role": "a", "content": "b"}], []]}, "the list is empty", "chats[1]"),
        ({"positions": ["last", "foo", "bar"]}, "should be 'last', 'all' or 'content'", "positions"),
        ({"chats": [3]}, "expected an object or a list, not a number", "chats[0]"),
        ({"token_ids": 5}, "expected a list or null, not a number", "token_ids"),
        ({"token_ids": [1.5]}, "expected a whole number or a list, not a number", "token_ids[0]"),
        ({"token_ids": [[1], [2, "a"]]}, "expected a whole number, not a string", "token_ids[1][1]"),
        ({"positions": ["foo"]}, "should be 'last', 'all' or 'content'", "positions"),
        ({"positions": [["a"]]}, "expected a whole number, not a string", "positions[0][0]"),
        ({"positions": {}}, "expected a string or a list, not an object", "positions"),
        ({"chat_template_kwargs": {"a": [1]}}, "expected one value, not a list", "chat_template_kwargs"),
    ],
)
def test_texts_of_another_form(body: dict[str, Any], message: str, param: str) -> None:
    with pytest.raises(InvalidRequest, match=message) as caught:
        read_texts(**body)
    assert caught.value.param == param


def test_numbers_are_counted_before_any_is_made() -> None:
    body = b'{"token_ids":[' + b"1," * MOST_NUMBERS + b"1]}"
    with pytest.raises(PayloadTooLarge, match="token_ids has more than"):
        Form(ExplainRequest).read(body, MOST, LONGEST)


@pytest.mark.parametrize("field", ["token_ids", "positions"])
def test_numbers_in_a_row_are_of_one_text(field: str) -> None:
    """Each could be a list, and is looked at."""
    numbers = b"1," * MOST_IN_A_ROW + b"1"
    with pytest.raises(PayloadTooLarge, match=f"{field} has more than {MOST_IN_A_ROW} numbers for one text"):
        Form(ExplainRequest).read(b'{"%s":[%s]}' % (field.encode(), numbers), MOST, LONGEST)
    assert (
        len(Form(ExplainRequest).read(b'{"%s":[[%s]]}' % (field.encode(), numbers), MOST, LONGEST)[field][0])
        > MOST_IN_A_ROW
    )


@given(st.lists(st.integers(0, 99) | st.lists(st.integers(0, 99), max_size=5), min_size=1, max_size=20), st.booleans())
def test_numbers_in_a_row_are_counted_before_any_is_made(numbers: list[int | list[int]], spaced: bool) -> None:
    text = json.dumps(numbers, indent=1 if spaced else None).encode()
    assert json_route._in_a_row(text) == sum(isinstance(one, int) for one in numbers)


@pytest.mark.parametrize("field", ["texts", "chats", "token_ids", "positions"])
@pytest.mark.parametrize("value", [b'"\xff"', b'["\xff"]', b'"\\ud800"', b'["a\x01"]', b"[01]", b"[1e999]"])
def test_values_that_no_json_has(field: str, value: bytes) -> None:
    with pytest.raises(InvalidRequest):
        Form(ExplainRequest).read(b'{"%s":%s}' % (field.encode(), value), MOST, LONGEST)


@pytest.mark.parametrize("sign", [b"[", b'{"a":'])
@pytest.mark.parametrize("field", ["texts", "chats", "token_ids", "positions", "seed", "chat_template_kwargs"])
def test_depth_is_refused(field: str, sign: bytes) -> None:
    with pytest.raises(InvalidRequest):
        Form(ExplainRequest).read(b'{"%s":' % field.encode() + sign * 100_000, MOST, LONGEST)


@pytest.mark.parametrize("field", ["token_ids", "positions"])
def test_lists_of_numbers_are_counted_before_any_is_made(field: str) -> None:
    body = b'{"%s":[' % field.encode() + b"[1]," * MOST + b"[1]]}"
    with pytest.raises(PayloadTooLarge, match=f"{field} has more than {MOST} lists"):
        Form(ExplainRequest).read(body, MOST, LONGEST)


def test_a_long_name_is_not_repeated(running: Running) -> None:
    message, param = refusal(running, b'{"' + b"a" * MB + b'": 1}')
    assert (message, param) == (f"unknown field {'a' * 100!r}", "a" * 100)


@pytest.mark.parametrize("number", [b"1" * 400, b"-1", b"1.0", b'"1"', b"true", b"null"])
@pytest.mark.parametrize("field", ["n", "max_tokens", "top_k", "seed", "temperature"])
def test_numbers_are_looked_at_by_the_model(field: str, number: bytes) -> None:
    fields = Form(VerbalizeRequest).read(b'{"%s":%s}' % (field.encode(), number), MOST, LONGEST)
    assert set(fields) == {field}


def test_right_bodies_are_never_crowded() -> None:
    """As many strings as can be asked for, of all that a string may hold."""
    text = b'"' + b'\\\\\\" [\\u0022,\\n' * 40 + b'\\\\"'
    texts = b",".join([text] * 512)
    body = b'{"dtype": "float32", "texts": [' + texts + b'], "vectors": [' + texts + b"]}"
    fields = Form(CriticRequest).read(body, MOST, LONGEST)
    assert len(fields["texts"]) == len(fields["vectors"]) == 512


@pytest.mark.parametrize("string", [b'""', b'"\\\\"', b'"\\""', b'"a"'])
def test_too_many_strings_are_seen_wherever_they_are_cut(string: bytes) -> None:
    for before in range(4):
        body = b'{"texts": [' + b" " * before + (string + b",") * 100_000 + string + b"]}"
        excess = excess_in(body, MOST, LONGEST)
        assert excess is not None
        assert not excess.is_long
        assert excess.place < len(body)
        assert excess_in(body, 2 * 100_001, LONGEST) is None
        with pytest.raises(PayloadTooLarge, match=f"more than {MOST} strings") as caught:
            Form(ReconstructRequest).read(body, MOST, LONGEST)
        assert caught.value.param == "texts"


def test_what_is_wrong_before_there_are_too_many_is_said() -> None:
    strings = b'"a",' * 20_000
    with pytest.raises(InvalidRequest) as caught:
        Form(ReconstructRequest).read(b'{"texts": ["a", 1, ' + strings + b'"a"]}', MOST, LONGEST)
    assert caught.value.param == "texts[1]"


FILLS = [b"a", b"\\u00e9", b'\\"', b"\\\\", b"\\ud83d\\ude00", b"\xc3\xa9", b"/", b"[", b" "]
STRINGS = st.tuples(st.lists(st.tuples(st.sampled_from(FILLS), st.integers(0, 20_000)), max_size=3), st.integers(0, 9))


def string_of(parts: list[tuple[bytes, int]], rest: int) -> bytes:
    return b'"' + b"".join(fill * times for fill, times in parts) + b"\\\\" * rest + b'"'


@given(
    st.lists(STRINGS, min_size=1, max_size=4), st.sampled_from([b"", b" ", b" " * 60_000]), st.integers(0, 3 * 2**15)
)
def test_no_body_is_refused_whose_strings_are_short_enough(
    strings: list[tuple[list[tuple[bytes, int]], int]], space: bytes, longest: int
) -> None:
    """Whatever is escaped in them, however they end, and however much stands between them."""
    texts = [string_of(*one) for one in strings]
    body = b'{"texts":[' + space + (space + b"," + space).join(texts) + space + b"]}"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(json_route, "CHUNK", 2**12)
        excess = excess_in(body, MOST, longest)
    starts = [body.index(text) for text in texts]
    if excess is not None:
        assert any(start == excess.place and len(text) > longest for start, text in zip(starts, texts, strict=True))
    # What is all escapes, and longer by some parts, is seen.
    costly = any(len(parts) == 1 and parts[0][0].startswith(b"\\") for parts, _ in strings)
    if costly and all(len(text) - 4 * 2**12 > longest for text in texts):
        assert excess is not None


@pytest.mark.parametrize("unit", [b"\\u00e9", b'\\"', b"\\\\", b"\\n", b"\\n" + b"a" * 2 * CHUNK])
@pytest.mark.parametrize(
    ("model", "before", "param"),
    [
        (ReconstructRequest, b'{"texts":', "texts"),
        (ReconstructRequest, b'{"texts":["a", "b",', "texts[2]"),
        (ReconstructRequest, b'{"texts":["ab\\\\", ', "texts[1]"),
        (CriticRequest, b'{"texts":["a"],"vectors":["AAAA",', "vectors[1]"),
        (ExplainRequest, b'{"chats":[[{"role":"user","content":', "chats[0][0]"),
        (ExplainRequest, b'{"model":', None),
        (ExplainRequest, b'{"token_ids":', None),
        (ExplainRequest, b"{", None),
        (ReconstructRequest, b'{"texts":["a",' + b" " * (LONGEST + 1), None),
    ],
)
def test_a_string_that_is_too_long_ends_its_body(
    model: type[BaseModel], before: bytes, param: str | None, unit: bytes
) -> None:
    body = before + b'"' + unit * (3 * MB // len(unit))
    for end in (b'"', b"", b'"]}'):
        with pytest.raises(InvalidRequest, match=f"string has more than {LONGEST} bytes") as caught:
            Form(model).read(body + end, MOST, LONGEST)
        assert caught.value.param == param


def test_what_is_wrong_before_a_long_string_is_said() -> None:
    long = b'"' + b"\\n" * MB + b'"'
    with pytest.raises(InvalidRequest, match="expected a string, not a number") as caught:
        Form(ReconstructRequest).read(b'{"texts": ["a", 1, ' + long + b"]}", MOST, LONGEST)
    assert caught.value.param == "texts[1]"


def test_a_place_without_strings_may_be_long() -> None:
    numbers = b"[[" + b"1," * MB + b"1]]"
    body = b'{"texts": ["ab\\\\"' + b" " * 2 * MB + b'], "token_ids": ' + numbers + b" " * 2 * MB + b"}"
    assert excess_in(body, MOST, LONGEST) is None
    assert Form(ExplainRequest).read(body, MOST, LONGEST)["texts"] == ["ab\\"]
    assert excess_in(b"\\" * 3 * MB, MOST, LONGEST) is None
    assert excess_in(b'"' + b"\\" * 3 * MB, MOST, LONGEST) == Excess(0, is_long=True)


def cost(work: Callable[[], Any]) -> tuple[float, int]:
    """CPU seconds, and the most bytes that were held meanwhile."""
    tracemalloc.start()
    try:
        work()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    return cpu_s(work), peak


def cpu_s(work: Callable[[], Any]) -> float:
    """CPU seconds, without garbage collections: these cost whoever comes just then."""
    gc.disable()
    try:
        started = time.process_time()
        work()
        return time.process_time() - started
    finally:
        gc.enable()


CALLS = {
    "/verbalize": VerbalizeRequest, "/reconstruct": ReconstructRequest, "/critic": CriticRequest,
    "/ablate": AblateRequest, "/tokenize": TokenizeRequest, "/extract": ExtractRequest, "/explain": ExplainRequest,
}  # fmt: skip


@pytest.mark.parametrize(("path", "field"), PLACES)
def test_wrong_bodies_cost_no_more_than_right_ones(path: str, field: bytes) -> None:
    size, model = 16 * MB, CALLS[path]
    form = Form(model)
    most = form.strings_each * 512 + 64

    def read(body: bytes, longest: int = LONGEST) -> None:
        """As the route does."""
        with suppress(RequestError, ValidationError):
            model.model_validate(form.read(body, most, longest))

    # Right ones of the slowest kind are those of a pair that takes such long strings.
    costs = [cost(lambda body=body: read(body, size)) for body in right_bodies(field, size)]
    seconds, held = (max(values) for values in zip(*costs, strict=True))
    most_s = 2 * seconds + 0.02
    for name, body in wrong_bodies(field, size):
        wrong_s, wrong_held = cost(lambda body=body: read(body))
        for _ in range(5 if wrong_s > most_s else 0):  # what costs too much does so each time
            wrong_s = min(wrong_s, cpu_s(lambda body=body: read(body)))
        assert wrong_s <= most_s, name
        assert wrong_held <= 2 * max(held, size), name
