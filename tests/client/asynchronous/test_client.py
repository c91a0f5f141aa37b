import asyncio
import inspect
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import numpy as np
import orjson
import pytest

from nla_client import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    AsyncNLAClient,
    AsyncNLACritic,
    InvalidArgumentError,
    InvalidRequestError,
    InvalidResponseError,
    InvalidVectorError,
    NLAClient,
    NLACritic,
    OverloadedError,
    PayloadTooLargeError,
    Score,
    Verbalization,
)
from nla_client.errors import ERROR_CLASSES
from nla_client.sending import failures
from nla_client.sending.failures import FIRST_BACKOFF_S, MAX_LIMITED_S
from nla_client.wire import STATUS, ErrorType
from tests.client.conftest import INFO, Face


@pytest.mark.parametrize(("sync", "asynchronous"), [(NLAClient, AsyncNLAClient), (NLACritic, AsyncNLACritic)])
def test_sync_and_async_have_the_same_methods_and_parameters(sync: Any, asynchronous: Any) -> None:
    def shape(cls: Any, rename: Any) -> Any:
        methods = {name: method for name, method in inspect.getmembers(cls, inspect.isfunction) if name[0] != "_"}
        return {
            rename.get(name, name): [(p.name, p.kind, p.default) for p in inspect.signature(method).parameters.values()]
            for name, method in {**methods, "__init__": cls.__init__}.items()
        }

    assert shape(sync, {"close": "aclose"}) == shape(asynchronous, {})
    coroutines = {name for name, method in inspect.getmembers(asynchronous, inspect.iscoroutinefunction)}
    assert coroutines >= {name for name in shape(asynchronous, {}) if name != "__init__"}


def test_one_vector(faces: Any, server: Any) -> None:
    told = faces.nla().verbalize([3.0, 1.0], n=2)
    assert isinstance(told, Verbalization)
    assert (str(told), told.text, told.complete, told.finish_reason, told.score) == ("3", "3", True, "stop", None)
    assert len(told.samples) == 2
    assert repr(told) == "Verbalization(text='3', complete=True, finish_reason='stop', score=None, samples=<2>)"
    assert str(server.requests[0].url) == "http://nla:8000/verbalize"
    assert server.requests[0].headers["content-type"] == "application/json"


def test_a_batch_comes_back_in_order_though_answers_do_not(faces: Any, server: Any) -> None:
    def later_ones_first(body: Any) -> None:
        if body["seed"] == 5:  # the first request
            time.sleep(0.1)

    server.before = later_ones_first
    told = faces.nla(batch_size=2).verbalize([[float(k), 1.0] for k in range(7)], seed=5)
    assert [str(one) for one in told] == [f"{k} seed {5 + k // 2 * 2}" for k in range(7)]
    assert len(server.requests) == 4


def test_what_is_too_large_for_the_server_goes_in_halves(
    faces: Any, server: Any, error_body: Callable[..., dict[str, Any]]
) -> None:
    answer, size = server.verbalize, 3

    def small_alone(body: Any) -> httpx.Response:
        too_large = httpx.Response(413, json=error_body("payload_too_large", "at most 3", "vectors"))
        return too_large if len(body["vectors"]) > size else answer(body)

    server.verbalize = small_alone
    batch = [[float(k), 1.0] for k in range(21)]
    told = faces.nla(batch_size=10).verbalize(batch, seed=7)
    assert [str(one).split()[0] for one in told] == [str(k) for k in range(21)]
    assert [str(one).split()[-1] for one in told[:3]] == ["7", "7", "9"]  # of 0 and 1, and of those from 2 on
    size = 0
    with pytest.raises(PayloadTooLargeError, match="at most 3"):
        faces.nla().verbalize(batch[:1])


def test_a_batch_of_none_sends_nothing(faces: Any, server: Any) -> None:
    assert faces.nla().verbalize(np.empty((0, 4))) == []
    assert faces.critic().reconstruct([]).shape == (0, 0)
    assert faces.critic().score([], []) == []
    assert server.requests == []


def test_requests_overlap_up_to_the_limit() -> None:
    all_in, lock, most = threading.Barrier(3, timeout=60), threading.Lock(), [0, 0]

    def answer(_request: Any) -> Any:
        with lock:
            most[0] += 1
            most[1] = max(most)
        all_in.wait()  # passes only if three are in flight
        with lock:
            most[0] -= 1
        return httpx.Response(418)

    nla = NLAClient("http://nla", batch_size=1, max_in_flight=3, transport=httpx.MockTransport(answer))
    with pytest.raises(InvalidRequestError):
        nla.verbalize(np.ones((3, 2)))
    assert most[1] == 3


def test_async_requests_overlap_up_to_the_limit(server: Any) -> None:
    in_flight, most = 0, 0

    async def answer(request: Any) -> Any:
        nonlocal in_flight, most
        in_flight += 1
        most = max(most, in_flight)
        await asyncio.sleep(0.01)
        in_flight -= 1
        return server(request)

    nla = AsyncNLAClient("http://nla", batch_size=1, max_in_flight=3, transport=httpx.MockTransport(answer))
    told = asyncio.run(nla.verbalize([[float(k), 1.0] for k in range(9)]))
    assert [str(one) for one in told] == [f"{k}" for k in range(9)]
    assert most == 3


def test_threads_get_a_connection_each_and_keep_it() -> None:
    threads, connections = 120, list[Any]()
    all_in = threading.Barrier(threads, timeout=60)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            connections.append(self.client_address)

        def do_GET(self) -> None:
            all_in.wait()  # passes only if all are in flight
            body = orjson.dumps(INFO)
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_args: object) -> None: ...

    class Server(ThreadingHTTPServer):
        request_queue_size, daemon_threads = threads, True

    with (
        Server(("127.0.0.1", 0), Handler) as listening,
        ThreadPoolExecutor(threads + 1) as pool,
        NLAClient(f"http://127.0.0.1:{listening.server_port}", max_retries=0) as nla,
    ):
        pool.submit(listening.serve_forever)
        try:
            for _ in range(2):
                assert len(list(pool.map(lambda _: nla.info(), range(threads)))) == threads
        finally:
            listening.shutdown()
    assert len(connections) == threads


def test_vectors_are_encoded_when_their_request_is_sent(faces: Any, server: Any) -> None:
    reads = []

    class Row:
        shape = (1,)

        def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
            reads.append(len(server.requests))
            return np.ones(1, dtype)

    faces.nla(batch_size=10, max_in_flight=1).verbalize([Row() for _ in range(40)])
    encoding = reads[40:]  # the first reads are the check
    assert encoding == [sent for sent in range(4) for _ in range(10)]


def test_the_first_failure_stops_the_rest(faces: Any, server: Any, error_body: Callable[..., dict[str, Any]]) -> None:
    server.script = [httpx.Response(400, json=error_body("invalid_request", "vectors[1] is zero", "vectors[1]"))]
    with pytest.raises(InvalidRequestError, match=r"vectors\[1\] is zero"):
        faces.nla(batch_size=2, max_in_flight=1).verbalize(np.ones((100, 2)))
    assert len(server.requests) == 1


def test_a_failure_is_raised_at_once_and_wakes_those_that_wait(
    error_body: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failures, "MAX_RETRY_AFTER_S", 600)
    release = threading.Event()

    def answer(request: Any) -> Any:
        if b'"seed":0' in request.content:
            release.wait(60)
            return httpx.Response(400, json=error_body("invalid_request", param="vectors[0]"))
        release.set()
        return httpx.Response(429, headers={"Retry-After": "600"}, json=error_body("overloaded"))

    nla = NLAClient("http://nla", batch_size=1, transport=httpx.MockTransport(answer))
    start = time.monotonic()
    with pytest.raises(InvalidRequestError):
        nla.verbalize(np.ones((4, 2)), seed=0)
    assert time.monotonic() - start < 60
    waiting = [thread for thread in threading.enumerate() if thread.name.startswith("nla-client")]
    for thread in waiting:
        assert thread.daemon  # or a request without an answer would keep the process alive
        thread.join(60)
        assert not thread.is_alive()


def test_param_of_a_later_request_counts_over_the_batch(
    faces: Any, server: Any, error_body: Callable[..., dict[str, Any]]
) -> None:
    bad = httpx.Response(400, json=error_body("invalid_request", "vectors[1] is zero", "vectors[1]"))
    server.script = [None, None, bad]
    with pytest.raises(InvalidRequestError) as caught:
        faces.nla(batch_size=2, max_in_flight=1).verbalize(np.ones((8, 2)))
    assert caught.value.param == "vectors[5]"


def test_reconstruct(faces: Any, server: Any) -> None:
    critic = faces.critic(batch_size=2)
    one, many = critic.reconstruct("2.5"), critic.reconstruct(["1", "2", "3"], dtype="float32")
    assert one.dtype == many.dtype == np.float32
    assert one.tolist() == [2.5, 1.0]
    assert many.tolist() == [[1.0, 1.0], [2.0, 1.0], [3.0, 1.0]]
    assert [body["dtype"] for body in server.bodies] == ["bfloat16", "float32", "float32"]


def test_score(faces: Any, server: Any) -> None:
    critic = faces.critic(batch_size=2)
    one = critic.score("2.5", [2.0, 0.0])
    assert (type(one), one.mse, one.cosine, one.fve) == (Score, 0.5, 1.0, None)
    assert repr(one) == "Score(mse=0.5, cosine=1.0, fve=None)"
    many = critic.score(["1", "2", "4"], np.array([[1.0], [2.0], [3.0]]))
    assert [score.mse for score in many] == [0, 0, 1]
    assert len(server.requests) == 3


def test_results_and_columns_are_texts(faces: Any, server: Any) -> None:
    told = faces.nla(batch_size=2).verbalize([[1.0, 1.0], [2.0, 1.0], [4.0, 1.0]], n=2)
    critic, vectors = faces.critic(), np.array([[1.0], [2.0], [4.0]])
    for texts in (told, list(told), [one.samples[1] for one in told], told.to_arrow()["explanation"]):
        assert [score.mse for score in critic.score(texts, vectors)] == [0, 0, 0]
        assert critic.reconstruct(texts).tolist() == [[1.0, 1.0], [2.0, 1.0], [4.0, 1.0]]
    for text in (told[2], told[2].samples[0]):
        assert critic.score(text, vectors[2]).mse == 0
        assert critic.reconstruct(text).tolist() == [4.0, 1.0]


@pytest.mark.parametrize(
    ("texts", "vectors", "match"),
    [
        ("a", np.ones((1, 2)), "a text goes with a vector"),
        (["a"], np.ones(2), "a text goes with a vector"),
        (["a"], np.ones((2, 2)), "1 texts and 2 vectors"),
        ([1], np.ones((1, 2)), "texts must be"),
        (["a"], [[np.nan]], r"vectors\[0\] has"),
    ],
)
def test_pairs_that_do_not_match_send_nothing(faces: Any, server: Any, texts: Any, vectors: Any, match: str) -> None:
    with pytest.raises(InvalidArgumentError, match=match):
        faces.critic().score(texts, vectors)
    assert server.requests == []


def test_bad_vectors_send_nothing(faces: Any, server: Any) -> None:
    batch = np.ones((1000, 2))
    batch[-1, 0] = np.inf
    with pytest.raises(InvalidVectorError, match=r"vectors\[999\]"):
        faces.nla().verbalize(batch)
    with pytest.raises(InvalidArgumentError, match="a stream takes 1 to 64 vectors with n=1, not 65"):
        faces.nla().verbalize(np.ones((65, 2)), stream=True)
    assert server.requests == []


@pytest.mark.parametrize("tiny", [0.0, 1e-45, 1e-60])
def test_a_vector_without_a_direction_sends_nothing(faces: Any, server: Any, tiny: float) -> None:
    """Found at the end of a batch, it would throw away all answers before it."""
    batch = np.ones((100, 2))
    batch[-1] = tiny
    told = r"vectors\[99\] is all zero.*no direction"
    with pytest.raises(InvalidVectorError, match=told) as caught:
        faces.nla(batch_size=1).verbalize(batch)
    assert caught.value.param == "vectors[99]"
    with pytest.raises(InvalidVectorError, match=told):
        faces.critic().score(["a"] * 100, batch)
    with pytest.raises(InvalidVectorError, match="the vector is all zero"):
        faces.nla().verbalize(batch[-1], stream=True)
    assert server.requests == []


def test_a_redirect_says_where_to(faces: Any, server: Any) -> None:
    for location, there in {
        "https://other/verbalize": "https://other/verbalize",
        "/v2/verbalize": "http://nla:8000/v2/verbalize",
    }.items():
        server.script = [httpx.Response(308, headers={"Location": location}, text="<html>Moved")]
        with pytest.raises(APIStatusError, match=f"redirected to {there}") as caught:
            faces.nla().verbalize([1.0])
        assert caught.value.status_code == 308


def test_a_connection_is_waited_for_ten_seconds_and_an_answer_longer(faces: Any, server: Any) -> None:
    for given, connect in {330: 10.0, 2: 2.0, None: 10.0}.items():
        faces.nla(timeout=given).info()
        waits = server.requests[-1].extensions["timeout"]
        assert (waits["connect"], waits["read"], waits["write"]) == (connect, given, given)


@pytest.mark.parametrize("kind", STATUS)
def test_every_error_type(faces: Any, server: Any, error_body: Callable[..., dict[str, Any]], kind: ErrorType) -> None:
    server.script = [httpx.Response(STATUS[kind], headers={"x-request-id": "r"}, json=error_body(kind, "why", "n"))] * 3
    with pytest.raises(ERROR_CLASSES[kind]) as caught:
        faces.nla().verbalize([1.0])
    error = caught.value
    assert (error.type, error.status_code, error.message, error.param, error.request_id) == (
        kind,
        STATUS[kind],
        "why",
        "n",
        "r",
    )
    assert len(server.requests) == (3 if STATUS[kind] in (429, 503) else 1)


def test_retries_until_it_works(faces: Any, server: Any, error_body: Callable[..., dict[str, Any]]) -> None:
    server.script = [
        httpx.ConnectError("refused"),
        httpx.Response(503, headers={"Retry-After": "4"}, json=error_body("engine_unavailable")),
    ]
    nla = faces.nla()
    assert str(nla.verbalize([1.0])) == "1"
    assert 0.25 <= nla.waits[0] <= 0.5
    assert 4 <= nla.waits[1] <= 5
    assert len({request.content for request in server.requests}) == 1


def test_max_retries_bounds_the_attempts(faces: Any, server: Any, error_body: Callable[..., dict[str, Any]]) -> None:
    for retries in (0, 4):
        server.script = [httpx.Response(429, json=error_body("overloaded"))] * 10
        server.requests.clear()
        with pytest.raises(OverloadedError):
            faces.nla(max_retries=retries).verbalize([1.0])
        assert len(server.requests) == retries + 1


def test_a_limit_of_ones_own_is_waited_for_and_costs_no_retry(
    faces: Any, server: Any, error_body: Callable[..., dict[str, Any]]
) -> None:
    used_up = {"Retry-After": "7", "x-ratelimit-exceeded": "requests"}
    limited = httpx.Response(429, headers=used_up, json=error_body("overloaded"))
    server.script = [*[limited] * 5, httpx.ConnectError("refused"), *[limited] * 5]
    nla = faces.nla(max_retries=1)
    assert str(nla.verbalize([1.0])) == "1"
    assert len(nla.waits) == 11
    assert all(7 <= wait <= 16 for wait in [*nla.waits[:5], *nla.waits[6:]])
    server.script = [limited]
    with pytest.raises(OverloadedError) as caught:
        faces.nla(max_retries=0).verbalize([1.0])
    assert caught.value.rate_limited


@pytest.mark.parametrize("told", [7, 300, 601])
def test_a_limit_of_ones_own_is_not_waited_for_without_end(
    faces: Any, server: Any, error_body: Callable[..., dict[str, Any]], told: int
) -> None:
    used_up = {"Retry-After": f"{told}", "x-ratelimit-exceeded": "tokens"}
    server.script = [httpx.Response(429, headers=used_up, json=error_body("overloaded"))] * 1000
    nla = faces.nla()
    with pytest.raises(OverloadedError, match=f"limit tokens a minute, come again in {told} s") as caught:
        nla.verbalize([1.0])
    assert (caught.value.exceeded, caught.value.retry_after) == ("tokens", told)
    assert len(server.requests) == len(nla.waits) + 1
    assert bool(nla.waits) == (told <= MAX_LIMITED_S)
    assert MAX_LIMITED_S - told < sum(nla.waits) <= MAX_LIMITED_S + FIRST_BACKOFF_S
    server.script.clear()
    assert str(nla.verbalize([1.0])) == "1"  # the waits of one request are no other's


def test_while_others_get_through_it_is_waited_for(
    faces: Any, server: Any, error_body: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several requests of one client take turns under a limit, and one may have bad luck for long."""
    used_up = {"Retry-After": "60", "x-ratelimit-exceeded": "requests"}
    limited = httpx.Response(429, headers=used_up, json=error_body("overloaded"))
    nla = faces.nla()
    connection, wait = nla.client._connection, Face._wait

    def another_gets_through(face: Face, stop: Any, delay: float) -> bool:
        if len(face.waits) % 8 == 7:
            connection._answers += 1
        return wait(face, stop, delay)

    monkeypatch.setattr(Face, "_wait", another_gets_through)
    if not nla.is_async:
        connection.sleep = nla._wait
    server.script = [limited] * 30
    assert str(nla.verbalize([1.0])) == "1"
    assert len(nla.waits) == 30


def test_connection_errors_keep_their_cause(faces: Any, server: Any) -> None:
    server.script = [httpx.ConnectError("refused")] * 3
    with pytest.raises(APIConnectionError, match=r"POST /verbalize at nla:8000: refused") as caught:
        faces.nla().verbalize([1.0])
    assert isinstance(caught.value.__cause__, httpx.ConnectError)
    assert len(server.requests) == 3


def test_a_read_timeout_is_not_tried_again(faces: Any, server: Any) -> None:
    server.script = [httpx.ReadTimeout("")]
    with pytest.raises(APITimeoutError, match="ReadTimeout"):
        faces.critic().reconstruct("1")
    assert len(server.requests) == 1


def test_a_success_that_is_no_answer(faces: Any, server: Any) -> None:
    server.script = [httpx.Response(200, text="<html>hello")]
    with pytest.raises(InvalidResponseError, match="no CriticResponse"):
        faces.critic().score("1", [1.0])


def test_info_and_ready(faces: Any, server: Any, error_body: Callable[..., dict[str, Any]]) -> None:
    nla = faces.nla()
    assert (nla.info().layer, nla.ready()) == (1, True)
    server.script = [httpx.Response(503, json={"ready": False, "engines": {}})]
    assert nla.ready() is False
    server.script = [httpx.Response(500, json=error_body("internal"))]
    with pytest.raises(ERROR_CLASSES["internal"]):
        nla.ready()
    assert nla.waits == []


def test_key_and_base_path(faces: Any, server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    faces.nla(api_key="given").info()
    faces.nla().info()
    monkeypatch.setenv("NLA_API_KEY", "of the environment")
    faces.nla().info()
    faces.nla(api_key="").info()
    sent = [request.headers.get("authorization") for request in server.requests]
    assert sent == ["Bearer given", None, "Bearer of the environment", None]


def test_a_base_url_may_have_a_path() -> None:
    paths = []

    def answer(request: Any) -> Any:
        paths.append(request.url.path)
        return httpx.Response(200)

    for base in ("http://nla/prefix", "http://nla/prefix/"):
        assert NLAClient(base, transport=httpx.MockTransport(answer)).ready()
    assert paths == ["/prefix/ready"] * 2


@pytest.mark.parametrize(
    ("base_url", "options", "match"),
    [
        ("localhost:8000", {}, "must look like"),
        ("", {}, "must look like"),
        ("http://host:99999", {}, "must look like"),
        ("http://host:port", {}, "base_url"),
        (None, {}, "base_url"),
        ("http://nla", {"api_key": "line\n"}, "api_key has characters"),
        ("http://nla", {"api_key": "ключ"}, "api_key has characters"),
        ("http://nla", {"max_retries": -1}, "at least"),
        ("http://nla", {"batch_size": 0}, "at least"),
        ("http://nla", {"max_in_flight": 0}, "at least"),
        ("http://nla", {"max_connections": 0}, "at least"),
    ],
)
def test_settings_are_checked(base_url: Any, options: Any, match: str) -> None:
    for cls in (NLAClient, AsyncNLACritic):
        with pytest.raises(InvalidArgumentError, match=match) as caught:
            cls(base_url, **options)
        assert options.get("api_key", "secret") not in str(caught.value)


def test_context_managers_close() -> None:
    with NLAClient("http://nla") as nla:
        pass
    assert nla._connection._http.is_closed

    async def run() -> Any:
        async with AsyncNLACritic("http://nla") as critic:
            pass
        return critic._connection._http.is_closed

    assert asyncio.run(run())
    assert "secret" not in repr(NLAClient("http://nla", api_key="secret")._connection.settings)
