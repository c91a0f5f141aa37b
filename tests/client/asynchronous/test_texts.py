"""The calls that begin with a text: one and many, split and whole, in order, seeded; streams; errors."""

import inspect
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest

from nla_client import (
    EngineUnavailableError,
    Explanation,
    Explanations,
    Extraction,
    Extractions,
    InvalidArgumentError,
    InvalidRequestError,
    InvalidResponseError,
    NLAClient,
    PayloadTooLargeError,
    PositionDelta,
    PositionDone,
    PositionError,
    ReadToken,
    SampleDelta,
    StreamDone,
    TextTokens,
    Token,
    Tokenization,
    wire,
)

TEXTS = ["one two three", "four", "five six", "seven eight nine ten"]
OTHERWISE = {"texts", "chats", "token_ids", *wire.PairRequest.model_fields}
"""Fields that no argument of a call has by their names."""
CHAT = [{"role": "user", "content": "Hi there"}, {"role": "assistant", "content": "Ho"}]


def said(explained: Any) -> list[list[str]]:
    return [[token.explanation for token in one.tokens] for one in explained]


@pytest.mark.parametrize(
    ("method", "model"),
    [
        (NLAClient.tokenize, wire.TokenizeRequest),
        (NLAClient.extract, wire.ExtractRequest),
        (NLAClient.explain, wire.ExplainRequest),
    ],
)
def test_arguments_and_defaults_are_those_of_the_wire(method: Any, model: Any) -> None:
    parameters = dict(list(inspect.signature(method).parameters.items())[2:])
    fields = {name: field for name, field in model.model_fields.items() if name not in OTHERWISE}
    # How long a text may be is left to the server: where its limit is less than usual, it takes that.
    usual = {name: None if name == "max_tokens" else field.default for name, field in fields.items()}
    assert {name: parameter.default for name, parameter in parameters.items()} == usual


def test_tokenize(faces: Any, server: Any) -> None:
    nla = faces.nla(batch_size=3)
    one = nla.tokenize("Hi there")
    assert isinstance(one, Tokenization)
    assert (one.text, one.model, [token.text for token in one.tokens]) == ("Hi there", "src", ["<s>", "Hi", " there"])
    assert all(type(token) is Token for token in one.tokens)
    assert one.ids == [token.id for token in one.tokens]
    assert [token.text for token in nla.tokenize(one.ids).tokens] == [str(number) for number in one.ids]
    assert [token.text for token in nla.tokenize("Hi", add_special_tokens=False).tokens] == ["Hi"]
    told = nla.tokenize(TEXTS)
    assert [len(each.tokens) for each in told] == [4, 2, 3, 5]
    assert sorted(len(body["texts"]) for body in server.bodies[3:]) == [1, 3]
    roles = [(token.role, token.message, token.content) for token in nla.tokenize(CHAT).tokens]
    assert roles == [
        ("user", 0, False),
        ("user", 0, True),
        ("user", 0, True),
        ("assistant", 1, False),
        ("assistant", 1, True),
    ]


def test_what_is_rendered_how_is_sent(faces: Any, server: Any) -> None:
    nla = faces.nla()
    options = {"add_generation_prompt": False, "continue_final_message": True}
    nla.tokenize(CHAT, **options, chat_template_kwargs={"enable_thinking": False})
    assert server.bodies[-1] == {"chats": [CHAT], **options, "chat_template_kwargs": {"enable_thinking": False}}
    nla.extract([1, 2])
    assert server.bodies[-1] == {"token_ids": [[1, 2]], "positions": "last", "dtype": "bfloat16"}


def test_extract_one(faces: Any, server: Any) -> None:
    read = faces.nla().extract("one two three", positions=[-1, 1], dtype="float32")
    assert isinstance(read, Extraction)
    assert (read.text, read.layer, read.model, read.vectors.dtype) == ("one two three", 3, "src", np.float32)
    assert [type(token) for token in read.tokens] == [ReadToken] * 2
    assert [(token.text, token.norm, token.remark) for token in read.tokens] == [
        ("one", 301, None),
        (" three", 603, None),
    ]
    assert read.vectors.tolist() == [[301, 1], [603, 3]]
    assert server.bodies[0]["positions"] == [[-1, 1]]


def test_extract_many(faces: Any, server: Any) -> None:
    read = faces.nla(batch_size=3).extract(TEXTS)
    assert isinstance(read, Extractions)
    assert [one.text for one in read] == TEXTS
    assert [one.tokens[0].text for one in read] == [" three", "four", " six", " ten"]
    assert (read.model, read.usage.prompt_tokens) == ("src", 2)
    assert [body["positions"] for body in server.bodies] == ["last", "last"]
    each = faces.nla(batch_size=2).extract(TEXTS, positions=[[0], "content", [0, 1], "last"])
    assert [len(one.tokens) for one in each] == [1, 1, 2, 1]
    assert [one.vectors.shape for one in each] == [(1, 2), (1, 2), (2, 2), (1, 2)]
    assert [len(body["texts"]) for body in server.bodies[2:]] == [1, 1, 1, 1]


def test_an_extraction_is_its_vectors(faces: Any) -> None:
    nla = faces.nla()
    read = nla.extract("one two three", positions="content", dtype="float32")
    assert [told.text for told in nla.verbalize(read, dtype="float32")] == ["301", "402", "603"]
    assert np.array_equal(np.array(read, np.float64), read.vectors)
    assert nla.extract("", positions="content").vectors.shape == (0, 2)


@pytest.mark.parametrize("sort", ["text", "chat", "ids"])
def test_explain_one(faces: Any, server: Any, sort: str) -> None:
    text = {"text": "one two", "chat": CHAT, "ids": np.array([5, 6])}[sort]
    told = faces.nla().explain(text, n=2, seed=3)
    assert isinstance(told, Explanation)
    assert (told.layer, told.model, told.source, len(told.tokens)) == (3, "av", "src", 1)
    token = told.tokens[0]
    assert token.explanation == token.samples[0].text == f"{token.text.strip()}/{token.id} seed 3 sample 0"
    assert (len(token.samples), token.score) == (2, None)
    assert len(server.requests) == 1
    wanted = set(wire.ExplainRequest.model_fields) - OTHERWISE - {"max_tokens"}
    assert set(server.bodies[0]) >= wanted - {name for name in wanted if name.startswith(("add", "continue", "chat"))}
    assert "dtype" not in server.bodies[0]


def test_explain_many(faces: Any) -> None:
    told = faces.nla(batch_size=2).explain(TEXTS, score=True)
    assert isinstance(told, Explanations)
    assert [one.text for one in told] == TEXTS
    assert (told.model, told.usage.completion_tokens) == ("av", 2)
    assert told[0].tokens[0].score.mse == 0.5
    assert str(told[1]) == "1 'four': four/401 sample 0"


POSITIONS = ["last", "all", "content", [1], [0, -1], [-1, -2], [[1], "all", [0, -1, 1], "content"]]


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("n", [1, 100])
def test_a_split_call_samples_the_same(faces: Any, server: Any, positions: Any, n: int) -> None:
    whole = faces.nla(max_in_flight=1)
    direct = server.explain({"texts": TEXTS, "positions": positions, "seed": 7, "n": n}).json()["results"]
    wanted = [[token["samples"][0]["text"] for token in result["tokens"]] for result in direct]
    assert said(whole.explain(TEXTS, positions=positions, seed=7, n=n)) == wanted
    assert said(faces.nla(batch_size=1).explain(TEXTS, positions=positions, seed=7, n=n)) == wanted
    server.most_samples = 2 * n
    assert said(faces.nla().explain(TEXTS, positions=positions, seed=7, n=n)) == wanted


def test_one_long_text_takes_several_requests(faces: Any, server: Any) -> None:
    long = " ".join(f"w{k}" for k in range(600))
    told = faces.nla().explain(long, positions="content", seed=0)
    assert isinstance(told, Explanation)
    assert [token.position for token in told.tokens] == list(range(1, 601))
    assert [token.explanation.split()[2] for token in told.tokens] == [str(k) for k in range(600)]
    assert sorted(len(body["positions"][0]) for body in server.bodies[1:]) == [88, 256, 256]
    assert [request.url.path for request in server.requests] == ["/tokenize"] + ["/explain"] * 3


def test_what_is_known_is_not_asked_for(faces: Any, server: Any) -> None:
    nla = faces.nla()
    for positions in ("last", [1, 2], [-1, -2], [[0], [1], "last", [0]]):
        nla.explain(TEXTS, positions=positions, seed=1)
    assert {request.url.path for request in server.requests} == {"/explain"}


def test_a_text_without_content_is_the_servers_error(faces: Any) -> None:
    for texts in (["one two", "three", "", "four"], ["one", "two", "", "", "three"]):
        with pytest.raises(InvalidRequestError, match="no content") as caught:
            faces.nla(batch_size=2).explain(texts, positions="content", seed=4)
        assert caught.value.param == "positions[2]"


def test_special_tokens_are_no_content(faces: Any, server: Any) -> None:
    ids = [[5, 0, 6], [0, 7]]
    wanted = [["5/5 seed 1 sample 0", "6/6 seed 2 sample 0"], ["7/7 seed 3 sample 0"]]
    for batch_size in (1, 2):
        assert said(faces.nla(batch_size=batch_size).explain(ids, positions="content", seed=1)) == wanted
    asked = [body["positions"] for body in server.bodies if "positions" in body]
    assert sorted(map(str, asked)) == ["[[0, 2]]", "[[1]]", "content"]  # counted where it takes two requests


def test_one_position_too_large_is_the_servers_error(faces: Any, server: Any) -> None:
    server.most_samples = 0
    with pytest.raises(PayloadTooLargeError):
        faces.nla().explain("one two", positions=[0, 1])


def test_errors_count_over_the_whole_call(faces: Any, server: Any, error_body: Callable[..., dict[str, Any]]) -> None:
    for form, text in (("texts", TEXTS), ("chats", [CHAT] * 4), ("token_ids", [[1]] * 4)):
        for call in ("tokenize", "extract", "explain"):
            bad = httpx.Response(400, json=error_body("invalid_request", "no", f"{form}[1]"))
            server.script = [None, bad]
            with pytest.raises(InvalidRequestError) as caught:
                getattr(faces.nla(batch_size=2, max_in_flight=1), call)(text)
            assert caught.value.param == f"{form}[3]"


def test_without_a_source_it_says_so(faces: Any, server: Any, error_body: Callable[..., dict[str, Any]]) -> None:
    server.script = [httpx.Response(503, json=error_body("engine_unavailable", "start it with --source base"))]
    with pytest.raises(EngineUnavailableError, match="--source base"):
        faces.nla(max_retries=0).explain("a")


@pytest.mark.parametrize("call", ["tokenize", "extract", "explain"])
def test_what_is_no_text_sends_nothing(faces: Any, server: Any, call: str) -> None:
    with pytest.raises(InvalidArgumentError, match="empty list"):
        getattr(faces.nla(), call)([])
    with pytest.raises(InvalidArgumentError, match="cannot be sent as JSON"):
        getattr(faces.nla(), call)("\ud800")
    if call != "tokenize":
        with pytest.raises(InvalidArgumentError, match="positions is 'first'"):
            getattr(faces.nla(), call)("a", positions="first")
    if call == "explain":
        with pytest.raises(InvalidArgumentError, match="n must be an integer"):
            faces.nla().explain("a", n="many")
    if call == "extract":
        with pytest.raises(InvalidArgumentError, match="dtype must be one of"):
            faces.nla().extract("a", dtype="float16")
    assert server.requests == []


def test_answers_that_do_not_fit(faces: Any, server: Any) -> None:
    about = {"model": "m", "layer": 1, "usage": {"prompt_tokens": 0, "cached_tokens": 0, "completion_tokens": 0}}
    place = {"position": 0, "id": 0, "text": "", "start": 0, "end": 0, "special": False, "message": None, "role": None}
    read = place | {"content": True, "norm": 1, "remark": None}
    extracted = about | {"d_model": 2, "dtype": "float32"}
    for call, reply, match in (
        ("tokenize", {"model": "m", "results": []}, r"results \[\], not 0 to 0"),
        ("extract", extracted | {"results": []}, "not 0 to 0"),
        (
            "extract",
            extracted | {"results": [{"index": 0, "text": "", "tokens": [read | {"vector": "AAAA"}]}]},
            "a vector that cannot be read",
        ),
        ("explain", about | {"source": "s", "results": []}, "not 0 to 0"),
        (
            "explain",
            about | {"source": "s", "results": [{"index": 0, "text": "", "tokens": [read | {"samples": []}]}]},
            "a token without samples",
        ),
        ("explain", about, "no ExplainResponse"),
    ):
        server.script = [httpx.Response(200, json=reply)]
        with pytest.raises(InvalidResponseError, match=match):
            getattr(faces.nla(), call)("a")


def test_a_stream_of_explanations(faces: Any, server: Any, sse: Callable[..., bytes]) -> None:
    plain = {"position": 0, "id": 1, "text": "<s>", "start": 0, "end": 0, "special": True, "message": None}
    token = plain | {"role": None, "content": False}
    read = token | {"position": 1, "norm": 2.5, "remark": None}
    done = {"text": "x", "complete": True, "finish_reason": "stop", "score": None}
    place = {"index": 0, "position": 1, "sample": 0}
    failed = {"type": "internal", "message": "no", "param": None, "request_id": "r"}
    events = [
        ("tokens", {"index": 0, "text": "a", "tokens": [token, read]}),
        ("sample.delta", place | {"text": "x"}),
        ("sample.done", place | done),
        ("error", place | {"sample": 1, "error": failed}),
        ("done", {"usage": {"prompt_tokens": 1, "cached_tokens": 0, "completion_tokens": 1}}),
    ]
    whole = b"".join(sse(name, event) for name, event in events)
    server.script = [httpx.Response(200, content=whole)]
    got = faces.nla().explain_events("a", positions=[1], n=2)
    assert [type(event) for event in got] == [TextTokens, PositionDelta, PositionDone, PositionError, StreamDone]
    assert [type(one) for one in got[0].tokens] == [Token, ReadToken]
    assert got[0].tokens[1].norm == 2.5
    assert [event.position for event in got[1:4]] == [1, 1, 1]
    assert isinstance(got[1], SampleDelta)
    assert (server.bodies[0]["stream"], server.bodies[0]["positions"]) == (True, [[1]])


def test_a_stream_is_one_request(faces: Any, server: Any) -> None:
    nla = faces.nla(batch_size=2)
    for text, options, match in (
        (TEXTS, {}, "a stream takes 1 to 2 texts, not 4"),
        ("a", {"positions": [0, 1, 2], "n": 100}, "a stream takes 1 to 2 positions with n=100, not 3"),
        ([], {}, "empty list"),
    ):
        with pytest.raises(InvalidArgumentError, match=match):
            nla.explain(text, stream=True, **options)
    assert server.requests == []
