import inspect
from typing import Any

import numpy as np
import orjson
import pandas as pd
import pyarrow as pa
import pytest

from nla_client import InvalidArgumentError, InvalidResponseError, NLAClient, wire
from nla_client.calls import pairs
from nla_client.calls.arguments import as_texts
from nla_client.calls.base import Sampling
from nla_client.vectors import as_vectors

USAGE = {"prompt_tokens": 1, "cached_tokens": 0, "completion_tokens": 1}


def sampling(**changes: Any) -> Any:
    fields = {
        "dtype": "bfloat16",
        "n": 1,
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": None,
        "max_tokens": 200,
        "seed": None,
        "score": False,
    }
    return Sampling(**(fields | changes))


def bodies(batch: Any) -> Any:
    return [orjson.loads(batch.build(k).body) for k in range(batch.size)]


def vectors(count: Any, width: Any = 2) -> Any:
    return as_vectors(np.arange(count * width, dtype=np.float32).reshape(count, width), "bfloat16")


def test_body_is_the_contracts_request_field_by_field() -> None:
    body = bodies(pairs.verbalize(vectors(2), sampling(seed=7, top_k=5), 64))[0]
    assert set(body) == set(wire.VerbalizeRequest.model_fields) - set(wire.PairRequest.model_fields)
    (fewer,) = bodies(pairs.verbalize(vectors(2), sampling(max_tokens=None), 64))
    assert set(body) - set(fewer) == {"max_tokens"}, "the server knows its limit"
    (wrong,) = bodies(pairs.verbalize(vectors(2), sampling(max_tokens=np.array([1, 2])), 64))
    assert wrong["max_tokens"] == [1, 2], "which the server refuses"
    request = wire.VerbalizeRequest.model_validate(body)
    assert (request.seed, request.top_k, request.stream) == (7, 5, False)
    assert len(request.vectors) == 2


def test_defaults_are_those_of_the_wire() -> None:
    parameters = inspect.signature(NLAClient.verbalize).parameters
    own = {"vectors", *wire.PairRequest.model_fields}  # which pair it is for, a client is told once
    fields = {name: field for name, field in wire.VerbalizeRequest.model_fields.items() if name not in own}
    usual = {name: field.default for name, field in fields.items()}
    # Which is left to the server: where its limit is less, it takes that.
    assert {name: parameters[name].default for name in fields} == usual | {"max_tokens": None}


@pytest.mark.parametrize(
    ("count", "n", "batch_size", "sizes"),
    [
        (0, 1, 64, []),
        (1, 1, 64, [1]),
        (64, 1, 64, [64]),
        (65, 1, 64, [64, 1]),
        (7, 1, 3, [3, 3, 1]),
        (70, 10, 64, [25, 25, 20]),
        (2, 1000, 64, [1, 1]),
        (600, 1, 1000, [256, 256, 88]),
        (3, 0, 2, [2, 1]),
    ],
)
def test_splitting(count: Any, n: Any, batch_size: Any, sizes: Any) -> None:
    batch = pairs.verbalize(vectors(count), sampling(n=n), batch_size)
    assert [len(body["vectors"]) for body in bodies(batch)] == sizes
    assert [batch.build(k).offset for k in range(batch.size)] == [sum(sizes[:k]) for k in range(len(sizes))]


def test_seeds_go_on_from_request_to_request() -> None:
    assert [body["seed"] for body in bodies(pairs.verbalize(vectors(5), sampling(seed=10), 2))] == [10, 12, 14]
    last = bodies(pairs.verbalize(vectors(3), sampling(seed=2**31 - 1), 2))
    assert [body["seed"] for body in last] == [2**31 - 1, 1]
    assert bodies(pairs.verbalize(vectors(1), sampling(seed=-1), 2))[0]["seed"] == -1  # for the server to refuse


def test_numpy_scalars_are_numbers() -> None:
    body = bodies(pairs.verbalize(vectors(1), sampling(n=np.int64(2), seed=np.int64(3), top_p=np.float32(0.5)), 64))[0]
    assert (body["n"], body["seed"], body["top_p"]) == (2, 3, 0.5)


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int32, np.uint64, np.array])
def test_seeds_of_numpy_go_on_as_others(kind: Any) -> None:
    seeds = [body["seed"] for body in bodies(pairs.verbalize(vectors(300), sampling(seed=kind(100), n=kind(1)), 64))]
    assert seeds == [100, 164, 228, 292, 356]
    last = pairs.verbalize(vectors(2), sampling(seed=np.int32(2**31 - 1)), 1)
    assert [body["seed"] for body in bodies(last)] == [2**31 - 1, 0]


@pytest.mark.parametrize("changes", [{"n": 1.5}, {"n": "2"}, {"temperature": object()}, {"seed": 2**70}])
def test_what_cannot_be_sent_is_refused(changes: Any) -> None:
    with pytest.raises(InvalidArgumentError):
        bodies(pairs.verbalize(vectors(1), sampling(**changes), 64))


def test_a_stream_is_one_request() -> None:
    body = orjson.loads(pairs.verbalize_stream(vectors(2), sampling(), 2).body)
    assert body["stream"] is True
    for count, n in ((0, 1), (3, 1), (2, 200)):
        with pytest.raises(InvalidArgumentError, match="a stream takes"):
            pairs.verbalize_stream(vectors(count), sampling(n=n), 2)


def test_texts() -> None:
    assert as_texts("a") == (["a"], True)
    assert as_texts(("a", "b")) == (["a", "b"], False)
    assert as_texts(np.array(["a"])) == (["a"], False)
    assert as_texts([]) == ([], False)
    for wrong in (
        None,
        1,
        b"a",
        ["a", None],
        {"a"},
        {"a": 1},
        [["a"]],
        np.array([["a"]]),
        np.array("a"),
        np.array([1]),
    ):
        with pytest.raises(InvalidArgumentError, match="str"):
            as_texts(wrong)
    with pytest.raises(InvalidArgumentError, match="JSON"):
        bodies(pairs.reconstruct(["\ud800"], "bfloat16", 64))


@pytest.mark.parametrize(
    "column",
    [
        np.array(["a", "b"], object),
        pd.Series(["a", "b"]),
        pd.Series(["a", "b"], dtype="category"),
        pd.Series(["a", "b"], dtype="string"),
        pa.array(["a", "b"]),
        pa.chunked_array([["a"], ["b"]], pa.large_string()),
        pa.array(["a", "b"], pa.string_view()),
        pa.array(["a", "b"]).dictionary_encode(),
        np.array(["a", "b"], np.dtypes.StringDType()),
    ],
)
def test_columns_of_texts(column: Any) -> None:
    assert as_texts(column) == (["a", "b"], False)
    texts = as_texts(column)[0]
    assert {type(text) for text in texts} == {str}


@pytest.mark.parametrize("column", [pa.array(["a", None]), pd.Series(["a", None]), ["a", float("nan")]])
def test_a_missing_text_is_named(column: Any) -> None:
    with pytest.raises(InvalidArgumentError, match=r"texts\[1\] is"):
        as_texts(column)


def result(index: Any, samples: Any = 1) -> Any:
    sample = {"text": "t", "complete": True, "finish_reason": "stop", "score": None}
    return {"index": index, "samples": [sample] * samples}


@pytest.mark.parametrize(
    ("reply", "match"),
    [
        (b"<html>", "no VerbalizeResponse: the body: Invalid JSON"),
        (b'{"model": "m"}', "results: Field required"),
        (orjson.dumps({"model": "m", "results": [result(0)], "usage": USAGE}), r"results \[0\], not 0 to 1"),
        (orjson.dumps({"model": "m", "results": [result(1), result(0)], "usage": USAGE}), r"results \[1, 0\]"),
        (orjson.dumps({"model": "m", "results": [result(0), result(1, 0)], "usage": USAGE}), "without samples"),
    ],
)
def test_answers_that_do_not_fit(reply: Any, match: str) -> None:
    with pytest.raises(InvalidResponseError, match=match):
        pairs.verbalize(vectors(2), sampling(), 64).build(0).parse(reply)


def test_reconstructions_that_do_not_fit() -> None:
    parse = pairs.reconstruct(["a"], "bfloat16", 64).build(0).parse
    reply = {"model": "m", "dtype": "bfloat16", "d_model": 2, "usage": USAGE}
    with pytest.raises(InvalidResponseError, match="cannot be read: 2 bytes"):
        parse(orjson.dumps(reply | {"vectors": ["gD8="]}))
    with pytest.raises(InvalidResponseError, match="not 0 to 0"):
        parse(orjson.dumps(reply | {"vectors": []}))
