"""Whole runs of `nla extract` and `nla explain` against the small gateway: rows, order, seeds, failures, resumption."""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Final

import ml_dtypes
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from nla_client.wire import Token
from nla_data.api import Explain, Extract, Job, UsageError, run_job
from nla_data.asking import passages, source_task
from nla_data.asking.places import Choice, NoPlaceError
from tests.data.gateway import CONTEXT, SOURCE, D, FakeGateway, failure, fake_gateway, ids_of, tokens_of, vectors_of
from tests.data.test_run import nla, rows

COUNT: Final = 300
RANDOM: Final = np.random.default_rng(3)
TEXTS: Final = ["".join(map(chr, RANDOM.integers(97, 123, RANDOM.integers(2, 95)))) for _ in range(COUNT)]


def save(path: Path, texts: Any = TEXTS, name: str = "text", **columns: Any) -> str:
    pq.write_table(pa.table({name: texts, "label": [f"l{k}" for k in range(len(texts))], **columns}), path)
    return str(path)


def check_rows(told: list[dict[str, Any]], texts: list[str], wanted: dict[int, list[int]]) -> None:
    """Every row is there once, in order, with the vector of its place; `wanted` are the places of each text."""
    assert [(row["label"], row["position"]) for row in told] == [
        (f"l{k}", place) for k in range(len(texts)) for place in wanted[k]
    ]
    for row in told:
        index, place = int(row["label"][1:]), row["position"]
        ids = ids_of(texts[index])
        assert (row["token_id"], row["n_raw_tokens"]) == (ids[place], place + 1)
        assert row["detokenized_text_truncated"] == texts[index][:place]
        assert (row["activation_layer"], row["truncated"], row["error"]) == (20, False, None)
        vector = vectors_of(ids)[place]
        assert row["norm"] == pytest.approx(float(np.linalg.norm(vector)))
        if "activation_vector" in row:
            np.testing.assert_array_equal(row["activation_vector"], vector)


@pytest.mark.parametrize(
    ("positions", "places"),
    [
        ("last", lambda size: [size - 1]),
        ("all", lambda size: list(range(size))),
        ("content", lambda size: list(range(1, size))),
        ("1,0,-1", lambda size: sorted({0, 1, size - 1})),
    ],
)
def test_extract(tmp_path: Path, gateway: FakeGateway, positions: str, places: Any) -> None:
    out = tmp_path / "out.parquet"
    assert nla("extract", save(tmp_path / "in.parquet"), out, "--url", gateway.url, f"--positions={positions}") == 0
    told = rows(out)
    check_rows(told, TEXTS, {k: places(len(text) + 1) for k, text in enumerate(TEXTS)})
    assert [row["doc_id"] for row in told] == [row["label"][1:] for row in told]
    assert "text" not in told[0]
    assert pq.read_schema(out).field("activation_vector").type == pa.list_(pa.float32(), D)
    if positions == "last":  # those of like length went together
        assert max(max(sizes) - min(sizes) for sizes in gateway.read[:4]) < 40
        assert {path for path, _ in gateway.seen} == {"extract"}


def test_the_sidecar_is_the_trainers(tmp_path: Path, gateway: FakeGateway) -> None:
    given, out = save(tmp_path / "in.parquet"), tmp_path / "out.parquet"
    assert (
        nla("extract", given, out, "--url", gateway.url, "--positions", "random:3", "--min-position", 1, "--seed", 4)
        == 0
    )
    said = yaml.safe_load((tmp_path / "out.parquet.nla_meta.yaml").read_text())
    assert (said["kind"], said["schema_version"], said["stage"]) == ("nla_dataset", 1, "base")
    assert said["extraction"] == {
        "base_model": "base", "d_model": D, "layer_index": 20, "norm": "none", "corpus": given,
        "corpus_slice": {"start": 0, "length": COUNT}, "positions_per_doc": 3,
    }  # fmt: skip
    assert said["row_count"] == pq.read_metadata(out).num_rows
    assert set(said["columns"].values()) <= set(pq.read_schema(out).names)
    assert said["positions"]["seed"] == 4


def test_draws_depend_on_seed_and_row_alone(tmp_path: Path, gateway: FakeGateway) -> None:
    whole = save(tmp_path / "whole.parquet")
    parts = tmp_path / "parts"
    parts.mkdir()
    for k, begin in enumerate(range(0, COUNT, 70)):
        table = pq.read_table(whole)[begin : begin + 70]
        pq.write_table(table, parts / f"{k}.parquet")
    draw = ("--positions", "random:3", "--min-position", 10, "--seed", 7)
    assert nla("extract", whole, tmp_path / "a.parquet", "--url", gateway.url, *draw) == 3
    with fake_gateway() as other:
        urls = ("--url", gateway.url, "--url", other.url)
        assert nla("extract", parts, tmp_path / "b", *urls, *draw) == 3
    assert rows(tmp_path / "a.parquet") == rows(tmp_path / "b")
    told = rows(tmp_path / "a.parquet")
    by_label = {label: [row for row in told if row["label"] == label] for label in {row["label"] for row in told}}
    for k, text in enumerate(TEXTS):
        found = by_label[f"l{k}"]
        if len(text) + 1 <= 10:
            assert [(row["position"], row["activation_vector"]) for row in found] == [(None, None)]
            assert "none to draw from position 10 on" in found[0]["error"]
        else:
            assert len(found) == min(3, len(text) + 1 - 10)
            assert all(10 <= row["position"] <= len(text) for row in found)
    kept = ("--where", "label IN ('l5', 'l250')", "--limit", 2)
    nla("extract", parts, tmp_path / "c", "--url", gateway.url, *draw, *kept)
    assert rows(tmp_path / "c") == by_label["l5"] + by_label["l250"]


def test_texts_that_cannot_be_read_are_kept_with_their_reason(tmp_path: Path, gateway: FakeGateway) -> None:
    texts = [None, "", "a" * CONTEXT, *TEXTS[:60]]
    given = save(tmp_path / "in.parquet", texts)
    assert nla("extract", given, tmp_path / "out", "--url", gateway.url) == 3
    told = rows(tmp_path / "out")
    assert [row["error"] for row in told[:4]] == ["no text", "no text", f"has {CONTEXT + 1} tokens", None]
    assert [row["position"] for row in told] == [None] * 3 + [len(text) for text in TEXTS[:60]]
    assert told[2]["activation_vector"] is None
    assert nla("extract", given, tmp_path / "cut", "--url", gateway.url, "--truncate", "--positions", "0,-1") == 3
    told = [row for row in rows(tmp_path / "cut") if row["label"] == "l2"]
    assert [(row["position"], row["truncated"], row["error"]) for row in told] == [
        (0, True, None),
        (CONTEXT - 1, True, None),
    ]
    np.testing.assert_array_equal(told[1]["activation_vector"], vectors_of(ids_of("a" * CONTEXT))[CONTEXT - 1])
    assert nla("extract", given, tmp_path / "beyond", "--url", gateway.url, "--positions=-50", "--truncate") == 3
    told = rows(tmp_path / "beyond")
    assert [row["position"] for row in told[3:]] == [len(t) - 49 if len(t) >= 49 else None for t in TEXTS[:60]]
    assert any("position -50 is out of range" in row["error"] for row in told if row["error"])


@pytest.mark.parametrize("command", ["extract", "explain"])
@pytest.mark.parametrize("first", [2**16, 300])
def test_texts_of_any_length_are_cut(
    tmp_path: Path, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch, command: str, first: int
) -> None:
    """As those that end there, though `/tokenize` takes no such texts, and where little of one is sent first."""
    monkeypatch.setattr(source_task, "FIRST_BYTES", first)
    ends = [text * 50 for text in TEXTS[:3]] + ["\U00012000 sign" * 90, "\u00e9" * 120, "a" * (CONTEXT - 1)]
    long = [end + "b\u00e9\U00012000" * 100_000 for end in ends[:5]] + ends[5:]
    flags = ("--url", gateway.url, "--truncate", "--positions", "random:3", "--min-position", 5, "--seed", 3)
    for name, texts in (("short", [end[: CONTEXT - 1] for end in ends]), ("long", long)):
        assert nla(command, save(tmp_path / f"{name}.parquet", texts), tmp_path / name, *flags) == 0
    short, told = rows(tmp_path / "short"), rows(tmp_path / "long")
    left_out = {"truncated", "text"}
    assert [{k: v for k, v in row.items() if k not in left_out} for row in told] == [
        {k: v for k, v in row.items() if k not in left_out} for row in short
    ]
    assert [row["truncated"] for row in told] == [len(long[int(row["label"][1:])]) >= CONTEXT for row in told]


def test_ids_are_cut_before_they_are_sent(tmp_path: Path, gateway: FakeGateway) -> None:
    ids = [[1, *range(5, 5 + size)] for size in (CONTEXT + 200_000, CONTEXT, CONTEXT - 1)]
    given = save(tmp_path / "in.parquet", ids)
    assert nla("extract", given, tmp_path / "out", "--url", gateway.url, "--truncate", "--positions=0,-1") == 0
    told = rows(tmp_path / "out")
    assert [(row["label"], row["position"]) for row in told] == [
        (f"l{k}", p) for k in range(3) for p in (0, CONTEXT - 1)
    ]
    assert [row["truncated"] for row in told] == [True, True, True, True, False, False]
    assert [row["token_id"] for row in told[1::2]] == [CONTEXT + 3] * 3
    assert nla("extract", given, tmp_path / "not", "--url", gateway.url, "--positions=random:1") == 3
    errors = [row["error"] for row in rows(tmp_path / "not")]
    assert errors[1:] == [f"has {CONTEXT + 1} tokens", None]
    assert "at most 131072 tokens are taken: shorten it" in errors[0]


def test_chats_and_token_ids(tmp_path: Path, gateway: FakeGateway) -> None:
    chats: list[Any] = [[{"role": "user", "content": f"number {k}"}] for k in range(9)]
    chats += [[], None, [{"role": "user", "content": None}]]
    given = tmp_path / "in.jsonl"
    lines = [{"messages": chat, "ids": [1, 5 + k, 9], "deep": {"a": 1}} for k, chat in enumerate(chats)]
    given.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert nla("extract", given, tmp_path / "chats", "--column", "messages", "--url", gateway.url) == 3
    told = rows(tmp_path / "chats")
    assert [row["error"] for row in told[9:]] == ["no messages", "no messages", "message 0 has no content"]
    assert told[3]["detokenized_text_truncated"] == "user: number 3\n"
    assert (told[3]["deep"], told[3]["ids"]) == ({"a": 1}, [1, 8, 9])
    assert nla("extract", given, tmp_path / "ids", "--column", "ids", "--positions", "all", "--url", gateway.url) == 0
    told = rows(tmp_path / "ids")
    assert [row["token_id"] for row in told[:6]] == [1, 5, 9, 1, 6, 9]
    np.testing.assert_array_equal(told[4]["activation_vector"], vectors_of([1, 6, 9])[1])
    assert nla("extract", given, tmp_path / "deep", "--column", "deep", "--url", gateway.url) == 2


def test_bfloat16_and_an_own_doc_id(tmp_path: Path, gateway: FakeGateway) -> None:
    given = save(tmp_path / "in.parquet", doc_id=[f"d{k}" for k in range(COUNT)])
    assert (
        nla("extract", given, tmp_path / "out", "--url", gateway.url, "--vectors", "bfloat16", "--drop", "label") == 0
    )
    table = pq.read_table(tmp_path / "out")
    assert table.schema.field("activation_vector").type == pa.list_(pa.uint16(), D)
    bits = np.array(table["activation_vector"].to_pylist(), np.uint16).view(ml_dtypes.bfloat16)
    wanted = np.stack([vectors_of(ids_of(text))[-1] for text in TEXTS]).astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(bits, wanted)
    assert table["doc_id"].to_pylist() == [f"d{k}" for k in range(COUNT)]


SAMPLED: Final = ("explanation", "complete", "finish_reason", "mse", "samples", "mse_mean", "model")


@pytest.mark.parametrize("keep", [(), ("--keep-vectors",)], ids=["", "with vectors"])
def test_explain_is_extract_and_verbalize(tmp_path: Path, gateway: FakeGateway, keep: Any) -> None:
    texts = ["a" * CONTEXT if k % 40 == 3 else None if k % 50 == 7 else text for k, text in enumerate(TEXTS)]
    given = save(tmp_path / "in.parquet", texts)
    server = ("--url", gateway.url, "--seed", 11)
    where = ("--positions", "random:4", "--min-position", 5)
    sampling = ("--n", 3, "--best")
    assert nla("extract", given, tmp_path / "vectors.parquet", *where, *server) == 3
    assert nla("verbalize", tmp_path / "vectors.parquet", tmp_path / "two", *sampling, *server) == 3
    assert nla("explain", given, tmp_path / "one", *where, *sampling, *server, *keep) == 3
    one, two = rows(tmp_path / "one"), rows(tmp_path / "two")
    assert [[row[name] for name in SAMPLED] for row in one] == [[row[name] for name in SAMPLED] for row in two]
    assert [row["position"] for row in one] == [row["position"] for row in two]
    assert [row["norm"] for row in one] == [row["norm"] and pytest.approx(row["norm"]) for row in two]
    failed = [row for row in one if row["error"]]
    assert {row["label"] for row in failed if "--truncate" in row["error"]} == {f"l{k}" for k in range(3, COUNT, 40)}
    assert all(row["explanation"] is None for row in failed)
    if keep:
        kept = [row["activation_vector"] for row in one]
        assert kept == pq.read_table(tmp_path / "vectors.parquet")["activation_vector"].to_pylist()
        assert (tmp_path / "one.nla_meta.yaml").is_file()
    else:
        assert "activation_vector" not in one[0]
        assert not (tmp_path / "one.nla_meta.yaml").exists()
    settings = json.loads(one[0]["settings"])
    assert (settings["n"], settings["seed"], settings["positions"]) == (3, 11, "random:4")


def test_a_folder_of_vectors_is_verbalized_as_its_sidecar_says(
    tmp_path: Path, gateway: FakeGateway, capsys: pytest.CaptureFixture[str]
) -> None:
    assert nla("extract", save(tmp_path / "in.parquet"), tmp_path / "vectors", "--url", gateway.url) == 0
    gateway.served["base_model"] = "another"
    assert nla("verbalize", tmp_path / "vectors", tmp_path / "told", "--url", gateway.url) == 0
    assert "these vectors are from base, but the pair explains those of another" in capsys.readouterr().err


def test_a_text_at_which_the_server_fails_stops_nobody(
    tmp_path: Path, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nla_data.running.gateways.FIRST_PAUSE_S", 0.001)
    gateway.trouble = lambda _path, body: failure("internal", "a bug") if TEXTS[77] in body.get("texts", ()) else None
    for command in ("extract", "explain"):
        assert nla(command, save(tmp_path / "in.parquet"), tmp_path / command, "--url", gateway.url) == 3
        failed = {row["label"]: row["error"] for row in rows(tmp_path / command) if row["error"]}
        assert list(failed) == ["l77"]
        assert "the server failed 4 times" in failed["l77"]


@pytest.mark.parametrize("command", ["extract", "explain"])
def test_one_text_of_a_request_that_is_not_told(tmp_path: Path, gateway: FakeGateway, command: str) -> None:
    """What is said of all texts together is true of one, which is found; the others go on, with the same seeds."""

    def refuse(path: str, body: Any) -> Any:
        told = failure("invalid_request", "positions: the text has no content", "positions")
        return told if path != "tokenize" and TEXTS[50] in body["texts"] else None

    given, flags = save(tmp_path / "in.parquet"), ("--url", gateway.url, "--positions", "content", "--seed", 1)
    assert nla(command, given, tmp_path / "whole", *flags, "--limit", 80) == 0
    gateway.trouble = refuse
    assert nla(command, given, tmp_path / "out", *flags, "--limit", 80) == 3
    told = rows(tmp_path / "out")
    assert [row["error"] for row in told if row["label"] == "l50"] == ["the text has no content"]
    others = [row for row in rows(tmp_path / "whole") if row["label"] != "l50"]
    assert [row for row in told if row["label"] != "l50"] == others


def test_what_makes_no_sense_is_refused(
    tmp_path: Path, gateway: FakeGateway, capsys: pytest.CaptureFixture[str]
) -> None:
    given = save(tmp_path / "in.parquet")
    base = ("extract", given, tmp_path / "out", "--url", gateway.url)
    wrong = {
        ("--positions", "some"): "must be last, all, content, random:N",
        ("--positions", "random:0"): "at least 1",
        ("--min-position", "5"): "leave out --min-position",
        ("--column", "nothing"): "has no column 'nothing'",
    }
    for flags, message in wrong.items():
        assert nla(*base, *flags) == 2
        assert message in capsys.readouterr().err
    assert nla(*base, "--seed", "-1") == 2
    with pytest.raises(UsageError, match="seed must not be negative"):
        Extract(seed=-1)
    gateway.served["source"] = None
    assert nla(*base) == 2
    assert "start it with nla-serve --source base" in capsys.readouterr().err
    assert Extract(positions=[0, -1]).positions == "0,-1"


def test_a_shard_without_the_texts_is_refused_and_one_without_another_column_is_not(
    tmp_path: Path, gateway: FakeGateway, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    save(tmp_path / "in" / "0.parquet", ["one two"], activation_vector=[[0.5]], doc_id=["d"])
    save(tmp_path / "in" / "1.parquet", ["three four"])
    assert nla("extract", tmp_path / "in", tmp_path / "out", "--url", gateway.url, "--drop", "activation_vector") == 0
    assert [row["doc_id"] for row in rows(tmp_path / "out")] == ["d", None]
    save(tmp_path / "in" / "1.parquet", ["three four"], "other")
    gateway.seen.clear()
    assert nla("extract", tmp_path / "in", tmp_path / "next", "--url", gateway.url) == 2
    assert "1.parquet: has no column 'text'" in capsys.readouterr().err
    assert gateway.seen == []


def test_sources_never_mix(tmp_path: Path, gateway: FakeGateway, capsys: pytest.CaptureFixture[str]) -> None:
    given = save(tmp_path / "in.parquet")
    assert nla("extract", given, tmp_path / "out", "--url", gateway.url) == 0
    gateway.served["source"] = SOURCE | {"context": 5}
    assert nla("extract", given, tmp_path / "out", "--url", gateway.url) == 0
    gateway.served["source"] = SOURCE | {"model": "other"}
    assert nla("extract", given, tmp_path / "out", "--url", gateway.url) == 2
    assert "was begun with source fake-source, now other" in capsys.readouterr().err
    gateway.served["source"] = SOURCE
    with fake_gateway() as other:
        other.served["source"] = SOURCE | {"context": 5}
        assert nla("extract", given, tmp_path / "two", "--url", gateway.url, "--url", other.url) == 2
    assert "take texts of other lengths" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["extract", "explain"])
def test_killed_again_and_again(tmp_path: Path, gateway: FakeGateway, command: str) -> None:
    """All rows once, in order, as if nothing had happened. One text is not answered before the last run."""
    held, came, last = "a text that waits for its turn", threading.Event(), threading.Event()
    texts = [*(TEXTS * 3), held]

    def hold(_path: str, body: Any) -> Any:
        if held not in body.get("texts", ()) or last.is_set():
            return None
        came.set()
        return failure("overloaded", "later")

    given, flags = (
        save(tmp_path / "in.parquet", texts),
        ("--positions", "random:2", "--min-position", "3", "--seed", "5"),
    )
    nla(command, given, tmp_path / "whole.parquet", "--url", gateway.url, *flags)
    gateway.trouble = hold
    line = [
        sys.executable,
        "-m",
        "nla_data",
        command,
        given,
        str(tmp_path / "out.parquet"),
        "--url",
        gateway.url,
        *flags,
    ]
    parts, seen = tmp_path / "out.parquet.parts", 0
    for _ in range(2):
        with subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
            while len(list(parts.glob("part-*"))) == seen and not came.is_set():
                assert run.poll() is None, "it ended before it was killed"
                time.sleep(0.02)
            seen = len(list(parts.glob("part-*")))
            run.kill()
        came.clear()
    last.set()
    assert subprocess.run(line, check=False, capture_output=True).returncode == 3
    assert rows(tmp_path / "out.parquet") == rows(tmp_path / "whole.parquet")


@pytest.mark.parametrize("held", [1000, 10])
def test_what_is_held_is_bounded(
    tmp_path: Path, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch, held: int
) -> None:
    """Pieces are cut by what becomes of them, and one that is larger by itself goes alone."""
    monkeypatch.setattr(passages, "PIECE_BYTES", held)
    texts = TEXTS[:40]
    given = save(tmp_path / "in.parquet", texts)
    assert nla("extract", given, tmp_path / "out", "--url", gateway.url, "--positions", "all") == 0
    check_rows(rows(tmp_path / "out"), texts, {k: list(range(len(text) + 1)) for k, text in enumerate(texts)})
    assert len(gateway.read) > 20


@given(st.integers(1, 200), st.integers(1, 9), st.integers(0, 60), st.integers(0, 2**31), st.integers(0, 10**9))
def test_draws(size: int, count: int, least: int, seed: int, number: int) -> None:
    tokens = [Token.model_validate(token) for token in tokens_of([1, *range(2, size + 1)])]
    choice = Choice.of(f"random:{count}", least)
    there = max(0, size - max(least, 1))
    if not there:
        with pytest.raises(NoPlaceError):
            choice.positions(tokens, seed, number)
        return
    drawn = choice.positions(tokens, seed, number)
    assert drawn == sorted(set(drawn))
    assert len(drawn) == min(count, there)
    assert all(max(least, 1) <= place < size for place in drawn)
    assert choice.positions(tokens, seed, number) == drawn


def test_from_python(tmp_path: Path, gateway: FakeGateway) -> None:
    job = Job(Explain(positions="last", seed=1), [save(tmp_path / "in.parquet")], str(tmp_path / "out"), [gateway.url])
    outcome = run_job(job)
    assert (outcome.totals.rows, outcome.totals.written, outcome.totals.sent) == (COUNT, COUNT, COUNT)
