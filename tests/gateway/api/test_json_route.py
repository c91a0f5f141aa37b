"""Wrong bodies: what is said of them, and that one costs little more than to read it."""

import time
from collections.abc import Iterator

import httpx
import pytest

from nla_gateway.limits import GatewayLimits
from tests.errors import error_in
from tests.gateway.process import Running, gateway

JSON = "application/json"
NO_OBJECT = "the body must be a JSON object, sent with content-type: application/json"
MB = 2**20


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with gateway(GatewayLimits()) as running:
        yield running


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


def test_what_is_no_json(running: Running) -> None:
    message, param = refusal(running, b'{"texts": ')
    assert (message.split(":")[0], param) == ("the body is not valid JSON", None)
    assert message.endswith("at character 10")


def test_fields_come_before_unknown_ones(running: Running) -> None:
    assert refusal(running, b'{"one": 1, "two": 2}') == ("texts: field required", "texts")
    assert refusal(running, b'{"one": 1, "texts": "a", "two": 2}') == ("unknown field 'one'", "one")


@pytest.mark.parametrize(
    ("right", "wrong", "param"),
    [
        (b'{"texts": [' + b'"1",' * (4 * MB) + b"1]}", b'{"texts": [1' + b",1" * (8 * MB) + b"]}", "texts[0]"),
        (
            b'{"texts": 1, "dtype": {' + b",".join(b'"%d":1' % n for n in range(MB)) + b"}}",
            b'{"texts": "",' + b",".join(b'"%d":1' % n for n in range(MB)) + b"}",
            "0",
        ),
    ],
    ids=["elements", "fields"],
)
def test_many_errors_cost_no_more_than_one(running: Running, right: bytes, wrong: bytes, param: str) -> None:
    """Of as many elements: in one body the first is wrong, or all are; in the other one error is all that there is."""
    started = time.perf_counter()
    refusal(running, right)
    one_error_s = time.perf_counter() - started
    assert refusal(running, wrong)[1] == param
    assert time.perf_counter() - started - one_error_s < 4 * one_error_s + 1
