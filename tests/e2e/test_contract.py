"""The HTTP contract on the toy pair: answers, streams, errors."""

import asyncio
import base64
import json
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing
from functools import partial
from http.client import HTTPConnection
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from nla_client import AsyncNLAClient
from nla_gateway import callers
from nla_gateway.api.app import create_app
from nla_gateway.roles import Role
from nla_gateway.settings import Access, Settings, Share
from tests.errors import error_in
from tests.plain import (
    LONG,
    decode,
    encode,
    events_of,
    flush_cache,
    of_engine,
    running,
    texts_of,
    verbalize,
    verbalizer_of,
    wait_for,
)
from tests.stack import Stack

D = 256


def error_of(reply: httpx.Response, status: int, param: str | None = None) -> str:
    assert reply.status_code == status, reply.text
    error = error_in(reply)
    assert error.param == param
    return error.message


def test_samples_scores_and_usage(toy: Stack, toy_vectors: NDArray[np.float32]) -> None:
    answer = verbalize(toy, toy_vectors[:3], n=2, temperature=1.0, seed=1, score=True)
    assert [result["index"] for result in answer["results"]] == [0, 1, 2]
    for result in answer["results"]:
        assert len(result["samples"]) == 2
        for sample in result["samples"]:
            assert sample["complete"]
            assert sample["finish_reason"] == "stop"
            score = sample["score"]
            assert score["mse"] == pytest.approx(2 * (1 - score["cosine"]), abs=1e-9)
            assert score["fve"] == pytest.approx(1 - score["mse"] / 0.96, abs=1e-9)
    assert answer["usage"]["prompt_tokens"] > 6 * 50
    assert 0 <= answer["usage"]["cached_tokens"] <= answer["usage"]["prompt_tokens"]


def test_the_prefix_is_warmed_again_after_a_flush(toy: Stack, toy_vectors: NDArray[np.float32]) -> None:
    before = verbalize(toy, toy_vectors[:4])
    assert before["usage"]["cached_tokens"] > 0.8 * before["usage"]["prompt_tokens"]
    flush_cache(verbalizer_of(toy))
    cold = verbalize(toy, toy_vectors[:1])
    assert cold["usage"]["cached_tokens"] == 0
    deadline = time.monotonic() + 60
    while (again := verbalize(toy, toy_vectors[:4]))["usage"] != before["usage"]:
        assert time.monotonic() < deadline, "the prefix stays cold"
    assert texts_of(again) == texts_of(before)
    assert texts_of(cold) == texts_of(before)[:1]


def test_one_vector_may_stand_alone(toy: Stack, toy_vectors: NDArray[np.float32]) -> None:
    body = {"vectors": encode(toy_vectors[0]), "dtype": "float32"}
    assert len(toy.http.post("/verbalize", json=body).json()["results"]) == 1


def test_bfloat16_is_the_default_both_ways(toy: Stack) -> None:
    reply = toy.http.post("/reconstruct", json={"texts": "Mostly cooking."}).json()
    assert (reply["dtype"], reply["d_model"]) == ("bfloat16", D)
    assert len(base64.b64decode(reply["vectors"][0])) == 2 * D
    again = toy.http.post("/critic", json={"texts": "Mostly cooking.", "vectors": reply["vectors"]}).json()
    assert again["results"][0]["cosine"] > 0.999


def test_the_same_seed_gives_the_same_samples_alone_or_in_a_batch(toy: Stack, toy_vectors: Any) -> None:
    arguments: dict[str, Any] = {"temperature": 1.0, "n": 3}
    batch = verbalize(toy, toy_vectors[:4], seed=100, **arguments)["results"]
    assert verbalize(toy, toy_vectors[:4], seed=100, **arguments)["results"] == batch
    alone = verbalize(toy, toy_vectors[2:3], seed=102, **arguments)["results"]
    assert alone[0]["samples"] == batch[2]["samples"]


def test_a_seed_does_not_care_for_its_neighbours(toy: Stack, toy_vectors: NDArray[np.float32]) -> None:
    arguments: dict[str, Any] = {"temperature": 5.0, "seed": 3, "n": 4, "max_tokens": 40}
    alone = verbalize(toy, toy_vectors[:1], **arguments)["results"]
    with ThreadPoolExecutor(2) as pool:
        neighbour = pool.submit(verbalize, toy, toy_vectors[1:3], n=4, temperature=50.0, top_k=400, top_p=0.9)
        assert [verbalize(toy, toy_vectors[:1], **arguments)["results"] for _ in range(3)] == [alone] * 3
        neighbour.result()


def test_a_text_that_cannot_be_scored_has_no_score(toy_settings: Settings, toy_vectors: Any) -> None:
    random = {"temperature": 50.0, "max_tokens": 60, "seed": 1}
    body = {"vectors": encode(toy_vectors[0]), "dtype": "float32", "score": True, **random}

    async def work(client: httpx.AsyncClient) -> None:
        reply = await client.post("/verbalize", json=body)
        assert reply.status_code == 200
        assert reply.json()["results"][0]["samples"][0]["score"] is None

    run_with(toy_settings, work, limits={"max_text_tokens": 30})


def test_samples_differ_from_each_other(toy: Stack, toy_vectors: NDArray[np.float32]) -> None:
    samples = verbalize(toy, toy_vectors[:1], n=12, temperature=5.0)["results"][0]["samples"]
    assert len({sample["text"] for sample in samples}) > 6


def test_a_text_cut_short_is_incomplete(toy: Stack, toy_vectors: NDArray[np.float32]) -> None:
    sample = verbalize(toy, toy_vectors[:1], max_tokens=6)["results"][0]["samples"][0]
    assert (sample["complete"], sample["finish_reason"]) == (False, "length")
    whole = verbalize(toy, toy_vectors[:1])["results"][0]["samples"][0]["text"]
    assert whole.startswith(sample["text"])


def test_stream(toy: Stack, toy_vectors: NDArray[np.float32]) -> None:
    body = {"vectors": [encode(v) for v in toy_vectors[:3]], "dtype": "float32", "temperature": 0, "n": 2}
    reply = toy.http.post("/verbalize", json={**body, "stream": True, "score": True})
    assert reply.headers["content-type"].startswith("text/event-stream")
    events = events_of(reply.text)
    assert events[-1][0] == "done"
    places = [(i, j) for i in range(3) for j in range(2)]
    done = {(e["index"], e["sample"]): e for name, e in events if name == "sample.done"}
    assert sorted(done) == places
    for place in places:
        assert "".join(deltas_of(events, place)) == done[place]["text"]
        assert done[place]["score"]["fve"] is not None
    whole = toy.http.post("/verbalize", json=body).json()
    assert [done[i, 0]["text"] for i in range(3)] == texts_of(whole)
    assert events[-1][1]["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]


def deltas_of(events: list[tuple[str, dict[str, Any]]], place: tuple[int, int]) -> list[str]:
    return [e["text"] for name, e in events if name == "sample.delta" and (e["index"], e["sample"]) == place]


def test_a_stream_comes_while_it_is_written(toy: Stack, toy_vectors: NDArray[np.float32]) -> None:
    """So hot that the closing tag hardly comes: hundreds of steps, of which a busy gateway may put some together.

    Seeded, for an opening tag in the middle would make what was streamed before it no part of the explanation.
    """
    body = {"vectors": encode(toy_vectors[0]), "dtype": "float32", "temperature": 30.0, "max_tokens": 300, "n": 16}
    body["seed"] = 3
    events = events_of(toy.http.post("/verbalize", json={**body, "stream": True}).text)
    whole = [e["text"] for name, e in sorted(events, key=lambda one: one[1].get("sample", 0)) if name == "sample.done"]
    deltas = [deltas_of(events, (0, sample)) for sample in range(16)]
    assert ["".join(pieces) for pieces in deltas] == whole
    assert max(map(len, deltas)) > 1


BAD: dict[str, tuple[str, dict[str, Any], str | None]] = {
    "unknown field": ("/verbalize", {"vectors": "", "what": 1}, "what"),
    "no vectors": ("/verbalize", {}, "vectors"),
    "no list": ("/verbalize", {"vectors": 3}, "vectors"),
    "empty list": ("/verbalize", {"vectors": []}, "vectors"),
    "bad base64": ("/verbalize", {"vectors": ["*"]}, "vectors[0]"),
    "url-safe base64": ("/verbalize", {"vectors": "_" * 684}, "vectors"),
    "wrong length": ("/verbalize", {"vectors": "AAAA"}, "vectors"),
    "zero": ("/verbalize", {"vectors": [encode(np.zeros(D))], "dtype": "float32"}, "vectors[0]"),
    "nan": ("/verbalize", {"vectors": [encode(np.full(D, np.nan))], "dtype": "float32"}, "vectors[0]"),
    "inf": ("/verbalize", {"vectors": encode(np.full(D, np.inf)), "dtype": "float32"}, "vectors"),
    "dtype": ("/verbalize", {"vectors": "AAAA", "dtype": "float16"}, "dtype"),
    "n": ("/verbalize", {"vectors": encode(np.ones(D)), "dtype": "float32", "n": 0}, "n"),
    "large n": ("/verbalize", {"vectors": encode(np.ones(D)), "dtype": "float32", "n": 1000}, "n"),
    "max_tokens": (
        "/verbalize",
        {"vectors": encode(np.ones(D)), "dtype": "float32", "max_tokens": 10**6},
        "max_tokens",
    ),
    "top_p": ("/verbalize", {"vectors": encode(np.ones(D)), "dtype": "float32", "top_p": 0}, "top_p"),
    "number as text": ("/verbalize", {"vectors": encode(np.ones(D)), "dtype": "float32", "n": "1"}, "n"),
    "long text": ("/reconstruct", {"texts": ["ok", "word " * 3000]}, "texts[1]"),
    "text is no text": ("/reconstruct", {"texts": [1]}, "texts[0]"),
    "uneven pairs": ("/critic", {"texts": ["a", "b"], "vectors": [encode(np.ones(D))], "dtype": "float32"}, "vectors"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_requests_name_the_field(toy: Stack, name: str) -> None:
    path, body, param = BAD[name]
    error_of(toy.http.post(path, json=body), 400, param)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"vectors": "", "seed": ' + b"9" * 5000 + b"}",
    ],
)
def test_bodies_that_are_no_object(toy: Stack, body: bytes) -> None:
    error_of(toy.http.post("/verbalize", content=body, headers={"content-type": "application/json"}), 400)


def test_half_a_surrogate_pair_is_no_text(toy: Stack) -> None:
    content = rb'{"texts": ["ok", "\ud800"]}'
    reply = toy.http.post("/reconstruct", content=content, headers={"content-type": "application/json"})
    assert "surrogate" in error_of(reply, 400)
    reply = toy.http.post("/reconstruct", content=rb'{"\ud800": 1}', headers={"content-type": "application/json"})
    error_of(reply, 400)


def test_not_found_and_wrong_method(toy: Stack) -> None:
    error_of(toy.http.get("/nope"), 404)
    reply = toy.http.get("/verbalize")
    error_of(reply, 405)
    assert reply.headers["allow"] == "POST"


def test_batch_over_the_limit(toy: Stack) -> None:
    error_of(toy.http.post("/reconstruct", json={"texts": ["a"] * 600}), 413, "texts")


def test_request_id_is_kept_when_sane(toy: Stack) -> None:
    assert toy.http.get("/health", headers={"x-request-id": "mine-1"}).headers["x-request-id"] == "mine-1"
    assert toy.http.get("/health", headers={"x-request-id": "a b\tc"}).headers["x-request-id"] != "a b\tc"


def test_health_ready_info_metrics(toy: Stack) -> None:
    assert toy.http.get("/health").status_code == 200
    ready = toy.http.get("/ready")
    assert (ready.status_code, ready.json()["ready"]) == (200, True)
    info = toy.http.get("/v1/info").json()
    assert (info["d_model"], info["layer"], info["predict_mean_mse"]) == (D, 1, 0.96)
    assert info["verbalizer"]["model"] == "toy-verbalizer"
    prints = {info[role]["fingerprint"] for role in ("verbalizer", "reconstructor")}
    assert [len(one) for one in prints] == [64, 64]
    for engine in info["engines"]:
        for name in ("pool_tokens", "running_requests"):
            assert engine[name] == engine[f"planned_{name}"] > 0
    assert [(engine["engine"], engine["warning"]) for engine in info["engines"]] == [
        ("verbalizer", None), ("reconstructor", None),
    ]  # fmt: skip
    metrics = toy.http.get("/metrics").text
    assert 'nla_engine_ready{engine="verbalizer"} 1.0' in metrics
    assert "nla_request_seconds_bucket" in metrics
    assert toy.http.get("/docs").status_code == 200


any_vector = hnp.arrays(np.float32, st.integers(0, 3).map(lambda n: D + n - 1), elements=st.floats(width=32))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(any_vector)
def test_any_vector_is_answered_or_refused(toy: Stack, vector: NDArray[np.float32]) -> None:
    body = {"vectors": encode(vector), "dtype": "float32", "max_tokens": 2, "score": True}
    reply = toy.http.post("/verbalize", json=body)
    good = vector.shape == (D,) and np.isfinite(vector).all() and vector.any()
    assert reply.status_code == (200 if good else 400), reply.text


def test_a_reconstructor_survives_a_generation_request(toy: Stack, toy_settings: Settings) -> None:
    engine = toy_settings.pairs[0].engines[Role.AR]
    headers = {"authorization": f"Bearer {engine.api_key}"}
    reply = httpx.post(f"{engine.urls[0]}/generate", json={"text": "hi"}, headers=headers, trust_env=False)
    assert reply.status_code == 400
    assert toy.http.post("/reconstruct", json={"texts": "still here"}).status_code == 200


def test_engines_want_their_key(toy_settings: Settings) -> None:
    for engine in toy_settings.pairs[0].engines.values():
        assert httpx.get(f"{engine.urls[0]}/server_info", trust_env=False).status_code == 401


@pytest.mark.parametrize("stream", [False, True])
def test_a_vanished_client_frees_the_engine(toy: Stack, toy_vectors: Any, stream: bool) -> None:
    engine, ended = verbalizer_of(toy), of_engine(toy, "verbalizer", "num_aborted_requests")
    body = {"vectors": encode(toy_vectors[0]), "dtype": "float32", "n": 32, "stream": stream, **LONG}
    with closing(HTTPConnection("127.0.0.1", toy.port, timeout=60)) as connection:
        connection.request("POST", "/verbalize", json.dumps(body), {"content-type": "application/json"})
        if stream:
            assert connection.getresponse().readline() == b"event: sample.delta\n"
        else:
            wait_for(lambda: running(engine) > 0)
    wait_for(lambda: of_engine(toy, "verbalizer", "num_aborted_requests") > ended + 1)
    wait_for(lambda: running(engine) == 0)


async def starting(client: httpx.AsyncClient) -> set[str]:
    engines = (await client.get("/ready")).json()["engines"]
    return {label for label, engine in engines.items() if engine["state"] == "starting"}


@asynccontextmanager
async def gateway(base: Settings, **changes: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A second gateway before the toy pair's engines, with other settings, in this process."""
    limits = base.limits.model_copy(update=changes.pop("limits", {}))
    there = base.pairs[0].engines
    engines = changes.pop("engines", there)
    pairs = (base.pairs[0].model_copy(update={"engines": engines}),)
    app = create_app(base.model_copy(update={**changes, "limits": limits, "pairs": pairs}))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=60) as client,
    ):
        ours = {role.label for role, engine in there.items() if engines.get(role) == engine}
        while ours & await starting(client):  # noqa: ASYNC110 - readiness is asked for, over HTTP
            await asyncio.sleep(0.1)
        yield client


def run_with(base: Settings, work: Callable[[httpx.AsyncClient], Any], **changes: Any) -> Any:
    async def run() -> Any:
        async with gateway(base, **changes) as client:
            return await work(client)

    return asyncio.run(run())


def test_a_stop_answers_what_cannot_be_finished(toy_settings: Settings, toy_vectors: Any) -> None:
    body = {"vectors": encode(toy_vectors[0]), "dtype": "float32", "n": 16, **LONG}

    async def work(client: httpx.AsyncClient) -> None:
        asked = [
            asyncio.create_task(client.post("/verbalize", json=body | {"stream": stream})) for stream in (False, True)
        ]
        await asyncio.sleep(0.5)
        app = client._transport.app  # type: ignore[attr-defined]
        app.state.gateway.leave()
        whole, streamed = await asyncio.gather(*asked)
        assert "this server stops" in error_of(whole, 503)
        assert whole.headers["retry-after"]
        events = events_of(streamed.text)
        names = [name for name, _ in events]
        # However hot, a sample may have ended by itself before.
        assert names.count("error") + names.count("sample.done") == 16
        assert names.count("error") > 1
        assert {event["error"]["type"] for name, event in events if name == "error"} == {"engine_unavailable"}
        assert events[-1][0] == "done"

    run_with(toy_settings, work, limits={"grace_s": 2.0})


def test_api_keys(toy_settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "nla_gateway.access")

    async def work(client: httpx.AsyncClient) -> None:
        error_of(await client.get("/v1/info"), 401)
        reply = await client.get("/v1/info", headers={"authorization": "Bearer wrong"})
        assert reply.headers["www-authenticate"] == "Bearer"
        error_of(reply, 401)
        error_of(await client.get("/v1/info", headers={"authorization": "Bearer adä".encode()}), 401)
        for key in ("ada-has-this", "bob-has-that"):
            assert (await client.get("/v1/info", headers={"authorization": f"Bearer {key}"})).status_code == 200
        assert (await client.get("/health")).status_code == 200

    run_with(toy_settings, work, access=Access(api_keys={"ada": "ada-has-this", "bob": "bob-has-that"}))
    served = [record.getMessage() for record in caplog.records if record.name == "nla_gateway.access"]
    assert [line.split()[-1] for line in served if "/v1/info 200" in line] == ["ada", "bob"]
    assert not any(key in caplog.text for key in ("ada-has-this", "bob-has-that", "Bearer"))


def test_callers_are_counted_and_held_to_their_limits(toy_settings: Settings, toy_vectors: Any) -> None:
    body = {"vectors": encode(toy_vectors[0]), "dtype": "float32", "n": 4, "seed": 1}

    async def work(client: httpx.AsyncClient) -> None:
        async def call(name: str, **more: Any) -> httpx.Response:
            headers = {"authorization": f"Bearer {name}-has-this"}
            return await client.post("/verbalize", json=body | more, headers=headers)

        first, second, third = [await call("ada") for _ in range(3)]
        assert first.json()["results"] == second.json()["results"]
        assert [first.headers[f"x-ratelimit-{what}-requests"] for what in ("limit", "remaining")] == ["2", "1"]
        assert "2 requests a minute" in error_of(third, 429)
        assert 0 < int(third.headers["retry-after"]) <= 30
        assert third.headers["x-ratelimit-remaining-requests"] == "0"
        assert third.headers["x-ratelimit-exceeded"] == "requests"
        both = [one.json()["usage"] for one in (first, second)]
        await asyncio.sleep(0)  # requests are counted once their answers are out
        told = (await client.get("/v1/usage", headers={"authorization": "Bearer ada-has-this"})).json()
        assert (told["caller"], told["requests"]) == ("ada", 3)
        assert told["usage"] == {name: both[0][name] + both[1][name] for name in both[0]}
        assert told["share"]["requests_per_minute"] == 2

        assert (await call("bob")).status_code == 200
        refused = await call("bob")
        assert "1 tokens a minute" in error_of(refused, 429)
        assert int(refused.headers["retry-after"]) > 60
        assert (await call("eve")).status_code == 200
        one, other = await asyncio.gather(call("eve"), call("eve"))  # more than she may have at once: some waits
        assert one.json()["results"] == other.json()["results"]
        assert not [name for name in one.headers if name.startswith("x-ratelimit")]
        streamed = await call("eve", stream=True)
        assert events_of(streamed.text)[-1][1]["usage"] == one.json()["usage"]
        await asyncio.sleep(0)
        shown = (await client.get("/metrics", headers={"authorization": "Bearer eve-has-this"})).text
        assert 'nla_caller_requests_total{caller="eve",status="200"} 4.0' in shown
        assert f'nla_caller_tokens_total{{caller="eve",kind="prompt"}} {4.0 * both[0]["prompt_tokens"]}' in shown
        assert 'nla_caller_tokens_total{caller="bob",kind="completion"}' in shown

    shares = {
        "ada": Share(requests_per_minute=2),
        "bob": Share(tokens_per_minute=1),
        "eve": Share(max_in_flight=3),
    }
    keys = {name: f"{name}-has-this" for name in shares}
    run_with(toy_settings, work, access=Access(api_keys=keys, shares=shares))


def test_clients_do_not_run_into_limits_that_they_were_told_of(
    toy_settings: Settings, toy_vectors: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Time is what their waits make it."""
    now = 0.0
    monkeypatch.setattr(callers, "Allowance", partial(callers.Allowance, clock=lambda: now))

    async def wait(_stop: Any, delay: float) -> bool:
        nonlocal now
        until = now + delay
        await asyncio.sleep(0)
        now = max(now, until)
        return False

    async def work(http: httpx.AsyncClient) -> None:
        options: dict[str, Any] = {"api_key": "ada-has-this", "batch_size": 1, "max_in_flight": 4}
        nla = AsyncNLAClient("http://localhost", transport=http._transport, **options)
        monkeypatch.setattr(nla._connection, "sleep", wait)
        monkeypatch.setattr(nla._connection._allowances, "_clock", lambda: now)
        told = await nla.verbalize(toy_vectors[:20], max_tokens=1)
        assert len(told) == 20
        assert 140 <= now < 142  # 6 were there, and 14 came back
        await asyncio.sleep(0)  # requests are counted once their answers are out
        shown = (await http.get("/metrics", headers={"authorization": "Bearer ada-has-this"})).text
        assert 'nla_caller_requests_total{caller="ada",status="200"} 20.0' in shown
        assert 'caller="ada",status="429"' not in shown

    access = Access(api_keys={"ada": "ada-has-this"}, shares={"ada": Share(requests_per_minute=6)})
    run_with(toy_settings, work, access=access)


def test_pages_of_allowed_origins_may_call(toy_settings: Settings) -> None:
    preflight = {
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type",
    }

    async def work(client: httpx.AsyncClient) -> None:
        asked = await client.options("/verbalize", headers={"origin": "https://lab.org", **preflight})
        assert (asked.status_code, asked.headers["access-control-allow-origin"]) == (200, "https://lab.org")
        refused = await client.get("/v1/info", headers={"origin": "https://lab.org"})
        error_of(refused, 401)
        assert refused.headers["access-control-allow-origin"] == "https://lab.org"
        assert "x-request-id" in refused.headers["access-control-expose-headers"].lower()
        other = await client.options("/verbalize", headers={"origin": "https://elsewhere.org", **preflight})
        assert other.status_code == 400
        assert "access-control-allow-origin" not in other.headers

    run_with(toy_settings, work, access=Access(api_keys={"ada": "k"}, allow_origins=("https://lab.org",)))


def test_docs_are_there_unless_turned_off(toy_settings: Settings) -> None:
    async def work(client: httpx.AsyncClient) -> list[int]:
        return [(await client.get(path)).status_code for path in ("/docs", "/openapi.json", "/health")]

    assert run_with(toy_settings, work) == [200, 200, 200]
    assert run_with(toy_settings, work, access=Access(docs=False)) == [404, 404, 200]


def test_body_over_the_limit(toy_settings: Settings) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(10):
            yield b" " * 300

    async def work(client: httpx.AsyncClient) -> None:
        error_of(await client.post("/reconstruct", json={"texts": "a" * 2000}), 413)
        headers = {"content-type": "application/json"}
        error_of(await client.post("/reconstruct", content=chunks(), headers=headers), 413)

    run_with(toy_settings, work, limits={"max_body_bytes": 1000})


def test_overload_and_timeout(toy_settings: Settings, toy_vectors: NDArray[np.float32]) -> None:
    body = {"vectors": encode(toy_vectors[0]), "dtype": "float32", "n": 3, **LONG}

    async def overload(client: httpx.AsyncClient) -> None:
        first = asyncio.create_task(client.post("/verbalize", json=body))
        while "nla_queue 3.0" not in (await client.get("/metrics")).text:
            continue
        refused = await client.post("/verbalize", json=body)
        error_of(refused, 429)
        assert int(refused.headers["retry-after"]) > 0
        error_of(await client.post("/verbalize", json={**body, "stream": True}), 429)
        first.cancel()

    async def timeout(client: httpx.AsyncClient) -> None:
        error_of(await client.post("/verbalize", json=body), 504)
        streamed = events_of((await client.post("/verbalize", json={**body, "stream": True})).text)
        errors = [event for name, event in streamed if name == "error"]
        assert [event["error"]["type"] for event in errors] == ["timeout"] * 3
        assert streamed[-1][0] == "done"

    run_with(toy_settings, overload, limits={"max_queue": 3})
    run_with(toy_settings, timeout, limits={"request_timeout_s": 1.0})


def test_engine_not_served_and_engine_gone(toy_settings: Settings, toy_vectors: NDArray[np.float32]) -> None:
    body = {"vectors": encode(toy_vectors[0]), "dtype": "float32"}

    async def only_av(client: httpx.AsyncClient) -> None:
        assert "--only av" in error_of(await client.post("/reconstruct", json={"texts": "a"}), 503)
        assert "--only av" in error_of(await client.post("/verbalize", json={**body, "score": True}), 503)
        assert (await client.post("/verbalize", json=body)).status_code == 200

    verbalizer = toy_settings.pairs[0].engines[Role.AV]
    run_with(toy_settings, only_av, engines={Role.AV: verbalizer})
    nowhere = verbalizer.model_copy(update={"urls": ("http://127.0.0.1:9",)})

    async def unreachable(client: httpx.AsyncClient) -> None:
        reply = await client.post("/verbalize", json=body)
        assert "starting" in error_of(reply, 503)
        assert reply.headers["retry-after"]
        ready = await client.get("/ready")
        assert "the verbalizer is still starting" in error_of(ready, 503)
        assert {name: e["state"] for name, e in ready.json()["engines"].items()} == {
            "verbalizer": "starting",
            "reconstructor": "ready",
        }

    run_with(toy_settings, unreachable, engines=toy_settings.pairs[0].engines | {Role.AV: nowhere})


def test_pairs_without_mse_scale_are_not_scored(toy_settings: Settings) -> None:
    reconstructor = toy_settings.pairs[0].engines[Role.AR]
    unscored = reconstructor.described().model_copy(update={"mse_scale": None})
    changed = reconstructor.model_copy(update={"description": unscored})

    async def work(client: httpx.AsyncClient) -> None:
        pair = {"texts": "a", "vectors": encode(np.ones(D)), "dtype": "float32"}
        assert "mse_scale" in error_of(await client.post("/critic", json=pair), 400)

    run_with(toy_settings, work, engines=toy_settings.pairs[0].engines | {Role.AR: changed})


def test_requests_in_flight_survive_each_other(toy: Stack, toy_vectors: NDArray[np.float32]) -> None:
    """A long request and many short ones at once: the short ones do not wait for it."""
    long = threading.Thread(target=lambda: verbalize(toy, toy_vectors[:1], n=4, **LONG))
    long.start()
    assert len(texts_of(verbalize(toy, toy_vectors[:8]))) == 8
    assert decode(encode(toy_vectors[0])).shape == (D,)
    long.join()
