"""`/critic` of all against all, and `/ablate`, on the toy pair: each score is that of the pair sent by itself."""

from collections.abc import Sequence
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nla_client.wire import AblateResponse, CriticMatrix
from nla_gateway.roles import Role
from nla_gateway.settings import Settings
from tests.e2e.test_contract import D, error_of, run_with
from tests.plain import encode, samples_of, total
from tests.stack import Stack

ONE = {"vectors": encode(np.ones(D, np.float32)), "dtype": "float32"}
TEXT = 'Mostly cooking, with some French. It is about "bread".\n\nDr. Fry said so; then came music.'
FIRST, _ = TEXT.split("\n\n")
SENTENCES = ["Mostly cooking, with some French.", 'It is about "bread".', "Dr. Fry said so; then came music."]


def scores_of(stack: Stack, texts: Sequence[str], vectors: Sequence[NDArray[np.float32]]) -> list[dict[str, Any]]:
    """By `/critic`, pair by pair."""
    body = {"texts": list(texts), "vectors": [encode(vector) for vector in vectors], "dtype": "float32"}
    results = stack.http.post("/critic", json=body).raise_for_status().json()["results"]
    return [{name: result[name] for name in ("mse", "cosine", "fve")} for result in results]


def assert_alike(got: Any, wanted: Any) -> None:
    """Scores of vectors that were rebuilt in other batches."""
    assert got == {name: pytest.approx(value, abs=1e-5) for name, value in wanted.items()}


def ablate(stack: Stack, text: str, vector: NDArray[np.float32], **arguments: Any) -> dict[str, Any]:
    body = {"texts": text, "vectors": encode(vector), "dtype": "float32", **arguments}
    answer = stack.http.post("/ablate", json=body)
    assert answer.status_code == 200, answer.text
    (result,) = AblateResponse.model_validate_json(answer.content).results
    return result.model_dump()


def test_all_against_all(toy: Stack, toy_vectors: NDArray[np.float32]) -> None:
    texts, vectors = [*SENTENCES, "", "music"], toy_vectors[:3]
    body = {"texts": texts, "vectors": [encode(vector) for vector in vectors], "dtype": "float32", "pairs": "all"}
    before = samples_of(toy)
    reply = toy.http.post("/critic", json=body)
    after = samples_of(toy)
    answer = CriticMatrix.model_validate_json(reply.content)
    assert reply.headers["content-type"] == "application/json"
    assert list(reply.json()) == list(CriticMatrix.model_fields)
    assert answer.fve is not None
    for index, text in enumerate(texts):
        for place, wanted in enumerate(scores_of(toy, [text] * 3, vectors)):
            got = {"mse": answer.mse, "cosine": answer.cosine, "fve": answer.fve}
            assert_alike({name: rows[index][place] for name, rows in got.items()}, wanted)
    assert [len(rows) for rows in (answer.mse, answer.cosine, answer.fve)] == [5] * 3
    once = toy.http.post("/reconstruct", json={"texts": texts}).json()["usage"]
    assert answer.usage.model_dump() == once
    assert (
        total(after, "nla_vectors_total", endpoint="/critic")
        == total(before, "nla_vectors_total", endpoint="/critic") + 3
    )
    assert total(after, "nla_unexplained_count") == total(before, "nla_unexplained_count")


def test_each_is_what_it_was(toy: Stack, toy_vectors: NDArray[np.float32]) -> None:
    body = {"texts": SENTENCES[:2], "vectors": [encode(v) for v in toy_vectors[:2]], "dtype": "float32"}
    unsaid, said = (toy.http.post("/critic", json=body | more) for more in ({}, {"pairs": "each"}))
    assert unsaid.content == said.content
    assert list(said.json()) == ["model", "results", "usage"]
    assert list(said.json()["results"][0]) == ["mse", "cosine", "fve", "index"]


@pytest.mark.parametrize("field", ["texts", "vectors"])
def test_too_many_of_either(toy: Stack, field: str) -> None:
    body = {"texts": "a", **ONE, "pairs": "all"}
    assert "at most 512" in error_of(toy.http.post("/critic", json={**body, field: [body[field]] * 513}), 413, field)


def test_parts_are_scored_as_texts_made_by_hand(toy: Stack, toy_vectors: NDArray[np.float32]) -> None:
    result = ablate(toy, TEXT, toy_vectors[0])
    parts = result.pop("parts")
    assert [part["text"] for part in parts] == SENTENCES
    assert [TEXT[part["start"] : part["end"]] for part in parts] == SENTENCES
    first, second, third = SENTENCES
    without = [f"{second}\n\n{third}", f"{first}\n\n{third}", f"{first} {second}"]
    upto = [first, f"{first} {second}", TEXT]
    made = scores_of(toy, [TEXT, "", *without, *upto], [toy_vectors[0]] * 8)
    got = [result["score"], result["empty"], *(part["without"] for part in parts), *(part["upto"] for part in parts)]
    for one, wanted in zip(got, made, strict=True):
        assert_alike(one, wanted)
    assert parts[-1]["upto"] == result["score"]


def test_each_text_is_rebuilt_once(toy: Stack, toy_vectors: NDArray[np.float32]) -> None:
    texts = ["One. Two.", "Two. One.", "", "One."]
    body = {"texts": texts, "vectors": [encode(v) for v in toy_vectors[:4]], "dtype": "float32"}
    before = samples_of(toy)
    answer = toy.http.post("/ablate", json=body).raise_for_status().json()
    after = samples_of(toy)
    needed = ["One. Two.", "Two. One.", "One.", "Two.", ""]
    assert answer["usage"] == toy.http.post("/reconstruct", json={"texts": needed}).json()["usage"]
    assert [[part["text"] for part in it["parts"]] for it in answer["results"]] == [
        ["One.", "Two."], ["Two.", "One."], [], ["One."],
    ]  # fmt: skip
    for index, (text, result) in enumerate(zip(texts, answer["results"], strict=True)):
        whole, empty = scores_of(toy, [text, ""], [toy_vectors[index]] * 2)
        assert_alike(result["score"], whole)
        assert_alike(result["empty"], empty)
        assert result["index"] == index
    assert (
        total(after, "nla_vectors_total", endpoint="/ablate")
        == total(before, "nla_vectors_total", endpoint="/ablate") + 4
    )
    assert total(after, "nla_unexplained_count") == total(before, "nla_unexplained_count") + 4


@pytest.mark.parametrize(
    ("by", "wanted"),
    [
        ("paragraph", [FIRST, SENTENCES[2]]),
        ("line", [FIRST, SENTENCES[2]]),
        ("word", TEXT.split()),
        ("quote", ['"bread"']),
    ],
)
def test_kinds_of_parts(toy: Stack, toy_vectors: NDArray[np.float32], by: str, wanted: list[str]) -> None:
    assert [part["text"] for part in ablate(toy, TEXT, toy_vectors[0], by=by)["parts"]] == wanted


def test_a_text_without_parts(toy: Stack, toy_vectors: NDArray[np.float32]) -> None:
    for text, by in (("", "sentence"), (" \n", "word"), ("no quote", "quote")):
        assert ablate(toy, text, toy_vectors[0], by=by)["parts"] == []


BAD: dict[str, tuple[dict[str, Any], int, str | None]] = {
    "uneven pairs": ({"texts": ["a", "b"], **ONE}, 400, "vectors"),
    "no vectors": ({"texts": "a"}, 400, "vectors"),
    "bad vector": ({"texts": ["a"], "vectors": ["AAAA"]}, 400, "vectors[0]"),
    "unknown kind": ({"texts": "a", **ONE, "by": "letter"}, 400, "by"),
    "kind is a list": ({"texts": "a", **ONE, "by": ["word"]}, 400, "by"),
    "unknown field": ({"texts": "a", **ONE, "pairs": "all"}, 400, "pairs"),
    "long text": (
        {"texts": ["ok", "word " * 3000], "vectors": [ONE["vectors"]] * 2, "dtype": "float32"},
        400,
        "texts[1]",
    ),
    "many texts": ({"texts": ["a"] * 513, "vectors": [ONE["vectors"]] * 513, "dtype": "float32"}, 413, "texts"),
    "many parts": (
        {"texts": [f"{k} " * 300 for k in range(8)], "vectors": [ONE["vectors"]] * 8, "dtype": "float32", "by": "word"},
        413,
        "texts",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_requests_name_the_field(toy: Stack, name: str) -> None:
    body, status, param = BAD[name]
    message = error_of(toy.http.post("/ablate", json=body), status, param)
    assert name != "many parts" or ("more than 2048 texts" in message and "`by`" in message)


def test_unknown_pairs(toy: Stack) -> None:
    error_of(toy.http.post("/critic", json={"texts": "a", **ONE, "pairs": "some"}), 400, "pairs")


def test_a_rest_that_cannot_be_taken_is_named(toy_settings: Settings) -> None:
    """Without the word before it, and so without its space, a word may have more tokens than with it."""

    async def work(client: httpx.AsyncClient) -> None:
        body = {"texts": ["a", "as with"], "vectors": [ONE["vectors"]] * 2, "dtype": "float32", "by": "word"}
        message = error_of(await client.post("/ablate", json=body), 400, "texts[1]")
        assert message.startswith("texts[1] part 0 left out: the text has ")

    run_with(toy_settings, work, limits={"max_text_tokens": 3})


def test_limits_and_parts_of_the_server(toy_settings: Settings) -> None:
    body = {"texts": "One. Two. Three.", **ONE}

    async def few(client: httpx.AsyncClient) -> None:
        assert "more than 5 texts" in error_of(await client.post("/ablate", json=body), 413, "texts")
        assert (await client.post("/ablate", json={**body, "texts": "One. Two."})).status_code == 200

    async def none(client: httpx.AsyncClient) -> None:
        for path, more in (("/ablate", {}), ("/critic", {"pairs": "all"})):
            assert "--only av" in error_of(await client.post(path, json=body | more), 503)

    async def alone(client: httpx.AsyncClient) -> None:
        for path, more in (("/ablate", {}), ("/critic", {"pairs": "all"})):
            assert (await client.post(path, json=body | more)).status_code == 200

    async def unscored(client: httpx.AsyncClient) -> None:
        for path, more in (("/ablate", {}), ("/critic", {"pairs": "all"})):
            assert "mse_scale" in error_of(await client.post(path, json=body | more), 400)

    engines = toy_settings.pairs[0].engines
    run_with(toy_settings, few, limits={"max_samples": 5})
    run_with(toy_settings, none, engines={Role.AV: engines[Role.AV]})
    run_with(toy_settings, alone, engines={Role.AR: engines[Role.AR]})
    described = engines[Role.AR].described().model_copy(update={"mse_scale": None})
    changed = engines[Role.AR].model_copy(update={"description": described})
    run_with(toy_settings, unscored, engines=engines | {Role.AR: changed})


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=60), st.sampled_from(["paragraph", "line", "sentence", "word", "quote"]))
def test_any_text_is_taken_apart(toy: Stack, text: str, by: str) -> None:
    reply = toy.http.post("/ablate", json={"texts": text, **ONE, "by": by})
    assert reply.status_code == 200, reply.text
    for part in reply.json()["results"][0]["parts"]:
        assert text[part["start"] : part["end"]] == part["text"]
