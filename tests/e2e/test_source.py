"""From text to explanation, on a small pair with its source: answers, streams, errors, and a source that dies."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nla_gateway.roles import Role
from tests.checkpoints import D_MODEL, LAYER, Pair, make_pair
from tests.e2e.test_data import nla
from tests.endurance import TEXTS as TEXT_RUN
from tests.endurance import endure, written
from tests.errors import error_in
from tests.plain import events_of, extract, of_engine, running, samples_of, texts_of, total, verbalize, wait_for
from tests.reference import ReferenceSource
from tests.stack import Stack, scheduler_of, serving, states_of

CONTEXT: Final = 900
PREFILL: Final = 64
"""Tokens that the source computes together: most texts go with few others, and long ones exceed it by themselves."""
CHAT: Final = [
    {"role": "user", "content": "Where is the harbour?"},
    {"role": "assistant", "content": "Down the hill, behind the old mill."},
]
TEXTS: Final = ["The harbour lies behind the old mill.", "日本 and 'quotes' > all\nkinds 👩‍👩‍👧", "word " * 60]


@dataclass(frozen=True)
class Served:
    pair: Pair
    stack: Stack
    reference: ReferenceSource


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("source")
    pair = make_pair(folder, "llama")
    few = {"source": ["--max-prefill-tokens", str(PREFILL)]}
    preset = {"name": "small", "av": str(pair.av), "ar": str(pair.ar), "source": str(pair.av), "engine_args": few}
    (folder / "preset.yaml").write_text(yaml.safe_dump(preset))
    flags = ["--preset", str(folder / "preset.yaml"), "--source-context", str(CONTEXT)]
    with serving(folder / "log", *flags, "--device", "cpu", "--dtype", "float32") as stack:
        yield Served(pair, stack, ReferenceSource(pair.av, LAYER))


def refused(served: Served, path: str, status: int, param: str | None, **body: Any) -> str:
    reply = served.stack.http.post(path, json=body)
    assert reply.status_code == status, reply.text
    error = error_in(reply)
    assert error.param == param, error
    return error.message


def test_info_and_ready_know_the_source(served: Served) -> None:
    info = served.stack.http.get("/v1/info").json()
    assert info["source"]["model"] == served.pair.av.name
    assert (info["source"]["layer"], info["layer"]) == (LAYER, LAYER)
    assert CONTEXT - 3 < info["source"]["context"] <= CONTEXT
    assert len(info["source"]["fingerprint"]) == 64
    ready = dict.fromkeys(("verbalizer", "reconstructor", "source"), "ready")
    wait_for(lambda: states_of(served.stack) == ready)


def test_tokens_of_texts(served: Served) -> None:
    reply = served.stack.http.post("/tokenize", json={"texts": TEXTS}).json()
    assert reply["model"] == served.pair.av.name
    for text, result in zip(TEXTS, reply["results"], strict=True):
        assert [token["id"] for token in result["tokens"]] == served.reference.ids(text)
        assert result["text"][result["tokens"][-1]["end"] :] == ""
        assert result["tokens"][0]["special"]
        assert not result["tokens"][0]["content"]
        assert all(token["text"] == result["text"][token["start"] : token["end"]] for token in result["tokens"][1:])


def test_tokens_of_a_chat(served: Served) -> None:
    (result,) = served.stack.http.post("/tokenize", json={"chats": CHAT}).json()["results"]
    assert [token["id"] for token in result["tokens"]] == served.reference.chat_ids(CHAT)
    for index, message in enumerate(CHAT):
        own = [token for token in result["tokens"] if token["message"] == index and token["content"]]
        assert {token["role"] for token in own} == {message["role"]}
        assert result["text"][own[0]["start"] : own[-1]["end"]].strip() == message["content"]


def test_a_text_longer_than_one_batch_of_the_engine_and_many_at_once(served: Served) -> None:
    texts = ["bread and butter " * 50, *TEXTS, *(f"number {number} of many" for number in range(40))]
    positions = [[0, -1], *([[-1, 0, 1]] * (len(texts) - 1))]
    assert len(served.reference.ids(texts[0])) > 2 * PREFILL
    for text, result in zip(texts, extract(served.stack, texts=texts, positions=positions), strict=True):
        ids = served.reference.ids(text)
        chosen = sorted({place % len(ids) for place in positions[texts.index(text)]})
        assert [token["position"] for token in result["tokens"]] == chosen
        assert np.abs(result["vectors"] - served.reference.vectors(ids)[chosen]).max() < 1e-4


def test_token_ids_stand_for_a_text(served: Served) -> None:
    ids = served.reference.ids(TEXTS[0])
    (by_ids,) = extract(served.stack, token_ids=ids, positions="content")
    (by_text,) = extract(served.stack, texts=TEXTS[0], positions="content")
    assert np.array_equal(by_ids["vectors"], by_text["vectors"])
    assert [token["position"] for token in by_text["tokens"]] == list(range(1, len(ids)))


def test_bfloat16_is_the_default(served: Served) -> None:
    reply = served.stack.http.post("/extract", json={"texts": TEXTS[0]}).json()
    assert (reply["layer"], reply["d_model"], reply["dtype"]) == (LAYER, D_MODEL, "bfloat16")
    (token,) = reply["results"][0]["tokens"]
    again = served.stack.http.post("/verbalize", json={"vectors": token["vector"], "temperature": 0})
    assert again.status_code == 200
    assert reply["usage"] == {
        "prompt_tokens": len(served.reference.ids(TEXTS[0])), "cached_tokens": 0, "completion_tokens": 0
    }  # fmt: skip


def test_an_explanation_is_an_extraction_verbalized(served: Served) -> None:
    sampling = {"n": 2, "temperature": 1.0, "seed": 7, "max_tokens": 12, "score": True}
    reply = served.stack.http.post("/explain", json={"texts": TEXTS[:2], "positions": "all", **sampling})
    explained = reply.raise_for_status().json()
    assert (explained["source"], explained["layer"]) == (served.pair.av.name, LAYER)
    vectors = np.concatenate([one["vectors"] for one in extract(served.stack, texts=TEXTS[:2], positions="all")])
    verbalized = verbalize(served.stack, vectors, **sampling)
    tokens = [token for result in explained["results"] for token in result["tokens"]]
    assert [[sample["text"] for sample in token["samples"]] for token in tokens] == [
        [sample["text"] for sample in result["samples"]] for result in verbalized["results"]
    ]
    assert all(sample["score"]["mse"] >= 0 for token in tokens for sample in token["samples"])
    first = tokens[:10]
    assert all("first 10" in token["remark"] for token in first)


def test_a_streamed_explanation(served: Served) -> None:
    body = {"texts": TEXTS[:2], "positions": [[-1], [3, 4]], "temperature": 0, "max_tokens": 12}
    whole = served.stack.http.post("/explain", json=body).json()
    events = events_of(served.stack.http.post("/explain", json={**body, "stream": True}).text)
    names = [name for name, _ in events]
    assert names[:2] == ["tokens", "tokens"]
    assert names[-1] == "done"
    assert events[-1][1]["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]
    for index, text in enumerate(TEXTS[:2]):
        tokens = events[index][1]["tokens"]
        assert [token["id"] for token in tokens] == served.reference.ids(text)
        read = {token["position"]: token["norm"] for token in tokens if "norm" in token}
        wanted = whole["results"][index]["tokens"]
        assert read == {token["position"]: token["norm"] for token in wanted}
        for token in wanted:
            own = [
                (name, one)
                for name, one in events[2:-1]
                if (one["index"], one["position"]) == (index, token["position"])
            ]
            assert "".join(one["text"] for name, one in own if name == "sample.delta") == token["samples"][0]["text"]
            (done,) = [one for name, one in own if name == "sample.done"]
            assert {key: done[key] for key in token["samples"][0]} == token["samples"][0]


def test_what_is_wrong_is_named(served: Served) -> None:
    ask = partial(refused, served)
    assert "exactly one of" in ask("/extract", 400, "texts")
    assert "exactly one of" in ask("/extract", 400, "texts", texts="a", token_ids=[1])
    ask("/extract", 400, "positions[1]", texts="a b c", positions=[0, 99])
    ask("/extract", 400, "positions[1][0]", texts=["a", "b"], positions=["last", [99]])
    ask("/extract", 400, "positions", texts=["a", "b"], positions=["last"])
    ask("/extract", 400, "positions", texts="a", positions="some")
    ask("/extract", 400, "positions", texts="a", positions=[])
    ask("/explain", 400, "n", texts="a", n=1000)
    ask("/explain", 400, "token_ids[1]", token_ids=[1, 10**9])
    ask("/tokenize", 400, "chats[0].content", chats=[{"role": "user"}])
    ask("/tokenize", 400, "vectors", texts="a", vectors=["b"])
    message = ask("/extract", 400, "texts[1]", texts=["a", "bread " * CONTEXT])
    assert "--source-context" in message
    assert "knows no" in ask(
        "/tokenize", 400, "chat_template_kwargs.foo", chats=CHAT, chat_template_kwargs={"foo": True}
    )
    ask("/extract", 413, "texts", texts=["a"] * 513)
    ask("/extract", 413, "positions", texts=["word " * 200] * 60, positions="all")
    ask("/explain", 413, "positions", texts=["word " * 200] * 20, positions="all", n=2)


def test_without_a_source_it_is_said_how_to_start_one(toy: Stack) -> None:
    for path in ("/tokenize", "/extract", "/explain"):
        reply = toy.http.post(path, json={"texts": "a"})
        assert reply.status_code == 503
        assert "--source base" in error_in(reply).message
        assert "retry-after" not in reply.headers


BOS: Final = "<|begin_of_text|>"
TEXT: Final = st.text(max_size=40) | st.lists(
    st.sampled_from([BOS, "<|eot_id|>", "<|start_header_id|>", " ", "word", "日本", "👩‍👩‍👧"]), max_size=5
).map("".join)
MESSAGE: Final = st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant"]), "content": TEXT})
CHOICE: Final = st.sampled_from(["last", "all", "content"]) | st.lists(st.integers(-8, 7), max_size=3)


def ids_of(reference: ReferenceSource, form: str, one: Any) -> list[int]:
    """Token ids of a text, a chat or ids, by transformers alone."""
    if form == "token_ids":
        return list(one)
    if form == "chats":
        return reference.chat_ids(one)
    ids = reference.ids(one)
    return ids[1:] if ids[:2] == [reference.tokenizer.bos_token_id] * 2 else ids


def meant(choice: str | list[int], tokens: list[dict[str, Any]]) -> list[int]:
    """Positions that a choice means in a text of such tokens; none where it is to be refused."""
    count = len(tokens)
    if choice == "last":
        return [count - 1]
    if choice == "all":
        return list(range(count))
    if choice == "content":
        return [token["position"] for token in tokens if token["content"] and not token["special"]]
    places = [int(place) for place in choice]
    return sorted({place % count for place in places}) if all(-count <= place < count for place in places) else []


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), form=st.sampled_from(["texts", "chats", "token_ids"]), each=st.booleans())
def test_anything_is_read_anywhere_or_refused(served: Served, data: st.DataObject, form: str, each: bool) -> None:
    some_ids = st.lists(st.integers(0, len(served.reference.tokenizer) - 1), min_size=1, max_size=20)
    kinds = {"texts": TEXT, "chats": st.lists(MESSAGE, min_size=1, max_size=3), "token_ids": some_ids}
    given_ones = data.draw(st.lists(kinds[form], min_size=1, max_size=4))
    choices = [data.draw(CHOICE) for _ in given_ones] if each else [data.draw(CHOICE)] * len(given_ones)
    tokenized = served.stack.http.post("/tokenize", json={form: given_ones}).raise_for_status().json()["results"]
    wanted = [meant(choice, result["tokens"]) for choice, result in zip(choices, tokenized, strict=True)]
    body = {form: given_ones, "positions": choices if each else choices[0]}
    if not all(wanted):
        error = error_in(served.stack.http.post("/extract", json=body))
        assert error.type == "invalid_request"
        assert str(error.param).startswith("positions")
        return
    for one, chosen, result in zip(given_ones, wanted, extract(served.stack, **body), strict=True):
        ids = ids_of(served.reference, form, one)
        assert [token["position"] for token in result["tokens"]] == chosen
        assert [token["id"] for token in result["tokens"]] == [ids[place] for place in chosen]
        assert np.abs(result["vectors"] - served.reference.vectors(ids)[chosen]).max() < 1e-4


def test_files_of_texts(served: Served, tmp_path: Path) -> None:
    """`nla extract` gives the reference's vectors; with `nla verbalize` it gives what `nla explain` gives."""
    texts = [f"{number}: {text}" for number in range(12) for text in TEXTS] + ["bread " * CONTEXT, "a"]
    pq.write_table(pa.table({"id": range(len(texts)), "text": texts}), tmp_path / "in.parquet")
    chats = pa.array([CHAT] * 3, pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())])))
    pq.write_table(pa.table({"messages": chats}), tmp_path / "chats.parquet")
    server = ("--url", served.stack.url, "--progress", "quiet")
    which = ("--positions", "random:2", "--min-position", 4, "--seed", 9)
    sampling = ("--max-tokens", 8, "--n", 2, "--seed", 9)
    vectors, told, explained = (tmp_path / name for name in ("vectors.parquet", "told", "explained"))
    nla("extract", tmp_path / "in.parquet", vectors, *which, *server, expect=3)
    nla("verbalize", vectors, told, *sampling, *server, expect=3)
    nla("explain", tmp_path / "in.parquet", explained, *which, *sampling, *server, expect=3)
    rows = pq.read_table(vectors).to_pylist()
    assert {row["id"] for row in rows if row["error"]} == {len(texts) - 2, len(texts) - 1}
    for row in rows:
        if row["error"] is None:
            wanted = served.reference.vectors(served.reference.ids(texts[row["id"]]))[row["position"]]
            assert np.abs(np.array(row["activation_vector"]) - wanted).max() < 1e-4
            assert texts[row["id"]].startswith(row["detokenized_text_truncated"])
    both = [pq.read_table(path).to_pylist() for path in (told, explained)]
    assert len(rows) == len(both[0]) == len(both[1]) == 2 * 36 + 2
    assert [[row[name] for name in ("id", "position", "samples")] for row in both[0]] == [
        [row[name] for name in ("id", "position", "samples")] for row in both[1]
    ]
    nla("extract", tmp_path / "in.parquet", tmp_path / "cut", "--truncate", *server)
    cut = pq.read_table(tmp_path / "cut").to_pylist()
    assert [row["id"] for row in cut if row["truncated"]] == [len(texts) - 2]
    most = served.stack.http.get("/v1/info").json()["source"]["context"]
    wanted = served.reference.vectors(served.reference.ids(texts[-2])[:most])[-1]
    assert np.abs(np.array(cut[-2]["activation_vector"]) - wanted).max() < 1e-4
    nla("extract", tmp_path / "chats.parquet", tmp_path / "chats", "--column", "messages", "--positions=0,-1", *server)
    ids = served.reference.chat_ids(CHAT)
    assert [row["token_id"] for row in pq.read_table(tmp_path / "chats").to_pylist()] == [ids[0], ids[-1]] * 3


def test_tokens_are_counted(served: Served) -> None:
    before = total(samples_of(served.stack), "nla_tokens_total", engine="source", kind="prompt")
    extract(served.stack, texts=TEXTS[0])
    after = total(samples_of(served.stack), "nla_tokens_total", engine="source", kind="prompt")
    assert after - before == len(served.reference.ids(TEXTS[0]))


def test_a_caller_who_leaves_ends_all_his_samples(served: Served) -> None:
    engine = served.stack.settings().pairs[0].engines[Role.AV]
    body = {"texts": "word " * 30, "positions": "all", "max_tokens": 900, "temperature": 50.0, "stream": True}
    before, ended = written(served.stack), of_engine(served.stack, "verbalizer", "num_aborted_requests")
    with (
        httpx.Client(base_url=served.stack.url, trust_env=False) as http,
        http.stream("POST", "/explain", json=body) as reply,
    ):
        lines, begun = reply.iter_lines(), list[int]()
        while len(set(begun)) < 2:
            if next(lines) == "event: sample.delta":
                begun.append(json.loads(next(lines).removeprefix("data: "))["position"])
    wait_for(lambda: running(engine) == 0)
    wait_for(lambda: of_engine(served.stack, "verbalizer", "num_aborted_requests") > ended + 1)
    # What was written for him counts.
    wait_for(lambda: written(served.stack) >= before + len(begun))


@pytest.mark.parametrize("path", ["/extract", "/explain"])
def test_a_caller_who_leaves_ends_the_reading_too(served: Served, path: str) -> None:
    """The source, too, is told: a part of what he asked for is read, and what it is at is not brought to its end."""
    engine, texts = served.stack.settings().pairs[0].engines[Role.SOURCE], ["word " * 800] * 512
    before = of_engine(served.stack, "source", "prompt_tokens")
    ended = of_engine(served.stack, "source", "num_aborted_requests")
    with closing(HTTPConnection("127.0.0.1", served.stack.port, timeout=60)) as connection:
        body = json.dumps({"texts": texts, "positions": "last"})
        connection.request("POST", path, body, {"content-type": "application/json"})
        wait_for(lambda: running(engine) > 0)
    wait_for(lambda: of_engine(served.stack, "source", "num_aborted_requests") > ended)
    wait_for(lambda: running(engine) == 0)
    asked = len(texts) * len(served.reference.ids(texts[0]))
    assert of_engine(served.stack, "source", "prompt_tokens") - before < asked / 2


def test_a_run_of_nla_on_texts_that_is_killed_with_its_source(served: Served, tmp_path: Path) -> None:
    report = endure(served.stack, tmp_path, TEXT_RUN, count=200, kills=(3, 1))
    assert report.fine, report


def test_a_source_killed_with_explanations_in_flight_comes_back(served: Served) -> None:
    body = {"texts": TEXTS[0], "positions": "all", "temperature": 0, "max_tokens": 8}
    right = served.stack.http.post("/explain", json=body).json()["results"]
    vectors = np.stack([np.ones(D_MODEL, np.float32)])

    def ask(_: int) -> list[Any] | int:
        reply = served.stack.http.post("/explain", json=body)
        return reply.json()["results"] if reply.status_code == 200 else reply.status_code

    with ThreadPoolExecutor(8) as pool:
        asked = pool.map(ask, range(24))
        scheduler_of(served.stack, Role.SOURCE).kill()
        # Those who do not need it notice nothing.
        assert len(texts_of(verbalize(served.stack, vectors, max_tokens=4))) == 1
        got = list(asked)
    assert all(one in (right, 503) for one in got)
    wait_for(lambda: states_of(served.stack).get("source") == "ready", 120)
    assert ask(0) == right
