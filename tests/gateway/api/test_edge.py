"""Callers that send or read too slowly, or too much, before a real gateway."""

import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import httpx
import pytest

from nla_client.wire import ErrorDetail
from nla_gateway.limits import GatewayLimits
from tests.errors import error_in
from tests.gateway.process import Running, gateway
from tests.plain import wait_for

MB = 2**20
LIMITS = GatewayLimits(max_body_bytes=MB, max_held_bytes=2 * MB, stall_timeout_s=120, request_timeout_s=120)
STALL_S, REQUEST_S = 1.5, 3.0
TICK_S = 0.01
"""An event loop's clock counts in steps, which may end a wait so much early."""
ONE = b"POST /reconstruct HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"


@pytest.fixture(scope="module")
def patient() -> Iterator[Running]:
    """Cuts nobody off for being slow."""
    with gateway(LIMITS) as running:
        yield running


@pytest.fixture(scope="module")
def quick() -> Iterator[Running]:
    """Cuts off who does nothing for a moment."""
    with gateway(LIMITS.model_copy(update={"stall_timeout_s": STALL_S})) as running:
        yield running


@pytest.fixture(scope="module")
def brief() -> Iterator[Running]:
    """Lets no request take long as a whole."""
    with gateway(LIMITS.model_copy(update={"request_timeout_s": REQUEST_S})) as running:
        yield running


def read_all(connection: socket.socket) -> bytes:
    """Read until the far end hangs up."""
    read = b""
    while piece := connection.recv(65536):
        read += piece
    return read


def error_of(reply: bytes, status: int, kind: str) -> ErrorDetail:
    head, _, body = reply.partition(b"\r\n\r\n")
    line, *fields = head.decode().split("\r\n")
    assert line.startswith(f"HTTP/1.1 {status} "), reply
    headers = [(name, value) for name, _, value in (field.partition(": ") for field in fields)]
    error = error_in(httpx.Response(status, headers=headers, content=body))
    assert error.type == kind
    return error


def test_a_body_that_stops_coming(quick: Running) -> None:
    with quick.connect() as connection:
        started = time.monotonic()
        connection.sendall(ONE + b"content-length: 1000\r\n\r\n{")
        reply = read_all(connection)
    assert STALL_S - TICK_S <= time.monotonic() - started < 60
    assert "did not come in time" in error_of(reply, 504, "timeout").message


def test_a_body_that_trickles(brief: Running) -> None:
    with brief.connect() as connection:
        started = time.monotonic()
        connection.sendall(ONE + b"content-length: 1000\r\n\r\n")
        while not select.select([connection], [], [], 0.4)[0]:  # no piece is due when the answer is
            assert time.monotonic() - started < 60, "it goes on for ever"
            connection.sendall(b" ")
        error_of(read_all(connection), 504, "timeout")
    assert REQUEST_S - TICK_S <= time.monotonic() - started < 60


@pytest.mark.parametrize("sent", [b"", b"GET /health HTTP/1.1\r\nhost: localhost\r\n"], ids=["silence", "half a head"])
def test_a_connection_that_asks_for_nothing_is_closed(quick: Running, sent: bytes) -> None:
    with quick.connect() as connection:
        connection.sendall(sent)
        started = time.monotonic()
        assert read_all(connection) == b""
    assert time.monotonic() - started < 60


def send_until_closed(running: Running, connection: socket.socket, data: bytes) -> None:
    """Send again and again, and read nothing, until the far end has hung up."""
    connection.settimeout(0.2)
    connection.sendall(data)
    wait_for(lambda: running.connections() > 0)  # or it is not taken yet
    deadline = time.monotonic() + 60
    while running.connections():
        assert time.monotonic() < deadline, "the connection stays"
        with suppress(TimeoutError, ConnectionError):
            connection.sendall(data)
        time.sleep(0.01)


def test_a_head_without_end(patient: Running) -> None:
    with patient.connect() as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nx-long: ")
        send_until_closed(patient, connection, b"a" * 10_000)


@pytest.mark.parametrize("sent", [b"\x16\x03\x01\x02\x00\x01\x00", b"nonsense\r\n\r\n"], ids=["tls", "nonsense"])
def test_what_is_no_http_gets_the_contracts_error(patient: Running, sent: bytes) -> None:
    with patient.connect() as connection:
        connection.sendall(sent)
        error_of(read_all(connection), 400, "invalid_request")


def test_a_refused_body_leaves_the_connection_alone(patient: Running) -> None:
    with httpx.Client(base_url=patient.url, trust_env=False, timeout=60) as client:
        headers = {"content-type": "application/json"}
        assert client.post("/reconstruct", content=b" " * (MB + 1), headers=headers).status_code == 413
        assert client.get("/health").status_code == 200


def test_bodies_are_bounded_together(patient: Running) -> None:
    large = ONE + f"content-length: {MB}\r\n\r\n".encode() + b" " * (MB - 1)
    half = b'{"texts": "' + b"a" * (MB // 2) + b'"}'

    def half_is_refused() -> bool:
        """As told before any of it is sent: what is sent takes room itself, and one of the two is refused instead."""
        with patient.connect() as connection:
            connection.sendall(ONE + f"expect: 100-continue\r\ncontent-length: {len(half)}\r\n\r\n".encode())
            return connection.recv(65536).startswith(b"HTTP/1.1 429 ")

    def post_half() -> httpx.Response:
        return client.post("/reconstruct", content=half, headers={"content-type": "application/json"})

    with httpx.Client(base_url=patient.url, trust_env=False, timeout=60) as client:
        with patient.connect() as first, patient.connect() as second:
            first.sendall(large)
            second.sendall(large)
            wait_for(half_is_refused)  # the two have come so far
            refused = post_half()
            assert (refused.status_code, error_in(refused).type) == (429, "overloaded")
            assert int(refused.headers["retry-after"]) > 0
            assert client.get("/health").status_code == 200
        wait_for(lambda: post_half().status_code != 429)  # bodies of those who left are held no more


def test_a_reader_that_stops_reading_is_cut_off(quick: Running) -> None:
    with quick.connect() as connection:
        send_until_closed(quick, connection, b"GET /openapi.json HTTP/1.1\r\nhost: localhost\r\n\r\n")


def test_a_line_end_after_a_reply_keeps_no_connection(quick: Running) -> None:
    with quick.connect() as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")
        connection.sendall(b"\r\n")
        started = time.monotonic()
        assert b"HTTP" not in read_all(connection)
    assert time.monotonic() - started < 60, "it was closed by uvicorn's longer time, if at all"


def test_many_requests_at_once_are_answered_and_not_kept(patient: Running) -> None:
    one, count = b"GET /v1/none HTTP/1.1\r\nhost: localhost\r\n\r\n", 3000
    last = b"GET /v1/none HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
    before, held, over = patient.process.memory_info().rss, list[int](), threading.Event()

    def watch() -> None:
        while not over.wait(0.001):
            held.append(patient.process.memory_info().rss)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        with patient.connect() as connection:
            connection.sendall(one * (count - 1) + last)
            answers = read_all(connection)
    finally:
        over.set()
        watching.join()
    assert answers.count(b"HTTP/1.1 404") == count
    assert max(*held, patient.process.memory_info().rss) - before < 3 * MB  # kept, they take more than 6


@pytest.mark.parametrize("path", ["/health", "/ready"])
def test_probes_by_head(patient: Running, path: str) -> None:
    url = f"{patient.url}{path}"
    head, get = (httpx.request(method, url, trust_env=False, timeout=60) for method in ("HEAD", "GET"))
    assert (head.status_code, head.content) == (get.status_code, b"")


def test_encoded_bodies_are_refused_by_name(patient: Running) -> None:
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    reply = httpx.post(f"{patient.url}/reconstruct", content=b"\x1f\x8b", headers=headers, trust_env=False, timeout=60)
    error = reply.json()["error"]
    assert (reply.status_code, error["type"]) == (415, "invalid_request")
    assert "content-encoding" in error["message"]


@pytest.mark.parametrize(
    ("host", "status"),
    [("evil.example", 400), ("192.168.0.7:80", 400), ("localhost:1", 200), ("127.0.0.2", 200), ("[::1]:9", 200),
     ("app.localhost", 200), ("localhost.evil.example", 400), ("[", 400), ("a]", 400), ("[evil]", 400)],
)  # fmt: skip
def test_without_a_key_only_loopback_is_a_host(patient: Running, host: str, status: int) -> None:
    """Else any page of the web could call it, by a name of its own that leads here."""
    reply = httpx.get(f"{patient.url}/health", headers={"host": host}, trust_env=False, timeout=60)
    assert reply.status_code == status
