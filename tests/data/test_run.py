"""Whole runs of `nla` against a small gateway that fails on demand."""

import asyncio
import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nla_data import cli
from nla_data.api import Job, UsageError, Verbalize, run_job
from nla_data.running import gateways
from nla_data.writing import parts
from tests.data.conftest import Clock
from tests.data.gateway import D, FakeGateway, failure, fake_gateway, info, limited, text_of
from tests.plain import wait_for

COUNT: Final = 500
VECTORS: Final = np.random.default_rng(0).standard_normal((COUNT, D)).astype(np.float32)


def save(path: Path, vectors: Any = VECTORS, **columns: Any) -> str:
    table = pa.table({"token": [f"t{k}" for k in range(len(vectors))], "activation_vector": list(vectors), **columns})
    pq.write_table(table, path, row_group_size=100)
    return str(path)


def nla(*arguments: Any) -> int:
    """Run the command in this process; its exit code."""
    try:
        return cli.main([str(argument) for argument in arguments])
    except SystemExit as left:
        return int(left.code or 0)


def rows(out: Path | str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(out).to_pylist()
    return found


def test_verbalize_into_a_file(tmp_path: Path, gateway: FakeGateway, capsys: pytest.CaptureFixture[str]) -> None:
    given, out = save(tmp_path / "in.parquet"), tmp_path / "out.parquet"
    arguments = ("verbalize", given, out, "--url", gateway.url, "--seed", 5, "--n", 3, "--best", "--dtype", "float32")
    assert nla(*arguments) == 0
    told = rows(out)
    assert [row["token"] for row in told] == [f"t{k}" for k in range(COUNT)]
    assert [row["explanation"] for row in told] == [f"{text_of(v, 5 + k)} 1" for k, v in enumerate(VECTORS)]
    first = told[0]
    assert (first["complete"], first["finish_reason"], first["error"], first["model"]) == (
        True,
        "stop",
        None,
        "fake-av",
    )
    assert (first["mse"], first["cosine"], first["fve"]) == (0.0, 1.0, 1.0)
    assert [sample["mse"] for sample in first["samples"]] == [0.1, 0.0, 0.1]
    assert first["mse_mean"] == pytest.approx(0.2 / 3)
    assert first["norm"] == pytest.approx(float(np.linalg.norm(VECTORS[0])))
    assert json.loads(first["settings"])["n"] == 3
    assert [row["input_row"] for row in told] == list(range(COUNT))
    assert "activation_vector" not in first
    assert "500 rows" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.parquet", "out.parquet"]
    asked = gateway.vectors
    assert nla(*arguments) == 0
    assert "finished before" in capsys.readouterr().out
    assert gateway.vectors == asked


def test_into_a_folder_with_a_condition(tmp_path: Path, gateway: FakeGateway) -> None:
    given = save(tmp_path / "in.parquet", layer=np.arange(COUNT) % 4)
    where = ("--where", "layer = 2", "--limit", 90, "--keep-vectors", "--drop", "token")
    assert nla("verbalize", given, tmp_path / "out", "--url", gateway.url, "--progress", "quiet", *where) == 0
    told = rows(tmp_path / "out")
    assert [row["input_row"] for row in told] == [4 * k + 2 for k in range(90)]
    np.testing.assert_array_equal([row["activation_vector"] for row in told], VECTORS[2:360:4])
    assert "token" not in told[0]
    manifest = json.loads((tmp_path / "out" / "_nla.json").read_text())
    assert (manifest["finished"], manifest["totals"]["rows"]) == (True, 90)


def test_reconstruct_and_score_what_was_verbalized(
    tmp_path: Path, gateway: FakeGateway, capsys: pytest.CaptureFixture[str]
) -> None:
    given, told = save(tmp_path / "in.parquet"), tmp_path / "told.parquet"
    url = ("--url", gateway.url)
    assert nla("verbalize", given, told, "--keep-vectors", *url) == 0
    assert nla("reconstruct", told, tmp_path / "rebuilt.parquet", *url) == 0
    rebuilt = rows(tmp_path / "rebuilt.parquet")
    assert [row["reconstruction"] for row in rebuilt] == [[float(len(row["explanation"]))] * D for row in rows(told)]
    assert nla("score", told, tmp_path / "scored.parquet", *url) == 2
    assert "leave them out with --drop" in capsys.readouterr().err
    drop = [part for name in ("mse", "cosine", "fve") for part in ("--drop", name)]
    assert nla("score", told, tmp_path / "scored.parquet", *drop, *url) == 0
    assert {row["fve"] for row in rows(tmp_path / "scored.parquet")} == {0.25}
    capsys.readouterr()
    assert nla("score", told, *drop, "--progress", "json", *url) == 0
    totals = json.loads(capsys.readouterr().out)
    assert (totals["rows"], totals["mean_fve"], totals["out"]) == (COUNT, 0.25, None)


def test_rows_that_fail_are_kept_with_their_reason(tmp_path: Path, gateway: FakeGateway) -> None:
    vectors = [row.astype(np.float64) for row in VECTORS]
    vectors[3], vectors[70], vectors[71] = np.zeros(D), np.full(D, np.nan), np.ones(D + 1)
    out = tmp_path / "out.parquet"
    assert nla("verbalize", save(tmp_path / "in.parquet", vectors), out, "--url", gateway.url, "--seed", 9) == 3
    told = rows(out)
    assert {k: row["error"] for k, row in enumerate(told) if row["error"]} == {
        3: "a zero vector, which has no direction",
        70: f"{D} elements are NaN",
        71: f"{D + 1} elements where d_model = {D} are needed",
    }
    assert told[3]["explanation"] is None
    good = [k for k in range(COUNT) if k not in (3, 70, 71)]
    wanted = [f"{text_of(VECTORS[k], 9 + place)} 0" for place, k in enumerate(good)]
    assert [told[k]["explanation"].split()[1:] for k in good] == [text.split()[1:] for text in wanted]


def test_texts_that_the_server_refuses(tmp_path: Path, gateway: FakeGateway) -> None:
    texts = [f"text {k}" if k % 7 else None if k % 2 else "too long" for k in range(130)]

    def refuse(_path: str, body: Any) -> Any:
        long = [k for k, text in enumerate(body["texts"]) if text == "too long"]
        return failure("invalid_request", "has too many tokens", f"texts[{long[0]}]") if long else None

    gateway.trouble = refuse
    table = pa.table({"explanation": texts})
    pq.write_table(table, tmp_path / "in.parquet")
    assert nla("reconstruct", tmp_path / "in.parquet", tmp_path / "out", "--url", gateway.url) == 3
    for text, row in zip(texts, rows(tmp_path / "out"), strict=True):
        wanted = {None: "no text", "too long": "has too many tokens"}.get(text)
        assert row["reconstruction_error"] == wanted
        assert (row["reconstruction"] is None) == (wanted is not None)


def test_a_row_at_which_the_server_fails_stops_nobody(
    tmp_path: Path, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateways, "FIRST_PAUSE_S", 0.001)
    poison = text_of(VECTORS[77])

    def fail(_path: str, body: Any) -> Any:
        told = gateway.answer("verbalize", body)["results"]
        return (
            failure("internal", "a bug") if any(it["samples"][0]["text"].split()[0] == poison for it in told) else None
        )

    gateway.trouble = fail
    out = tmp_path / "out.parquet"
    assert nla("verbalize", save(tmp_path / "in.parquet"), out, "--url", gateway.url, "--dtype", "float32") == 3
    failed = {k: row["error"] for k, row in enumerate(rows(out)) if row["error"]}
    assert list(failed) == [77]
    assert "the server failed 4 times: 500 internal: a bug" in failed[77]


def test_a_gateway_that_is_gone_and_comes_back(tmp_path: Path, gateway: FakeGateway) -> None:
    troubles = [failure("engine_unavailable"), failure("overloaded", **{"Retry-After": "0"})] * 4

    def trouble(_path: str, _body: Any) -> Any:
        return troubles.pop() if troubles else None

    gateway.trouble = trouble
    assert nla("verbalize", save(tmp_path / "in.parquet"), tmp_path / "out.parquet", "--url", gateway.url) == 0
    assert troubles == []
    assert len(rows(tmp_path / "out.parquet")) == COUNT


def test_two_gateways_share_the_work_and_one_may_go(tmp_path: Path, gateway: FakeGateway) -> None:
    with fake_gateway() as other:
        other.trouble = lambda _path, _body: failure("engine_unavailable") if len(other.seen) > 2 else None
        urls = ("--url", gateway.url, "--url", other.url)
        assert nla("verbalize", save(tmp_path / "in.parquet"), tmp_path / "out.parquet", *urls) == 0
    assert other.vectors
    assert gateway.vectors
    assert len(rows(tmp_path / "out.parquet")) == COUNT


def test_a_gateway_that_fails_at_everything_spoils_no_row(
    tmp_path: Path, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateways, "FIRST_PAUSE_S", 0.01)
    with fake_gateway() as sick:
        sick.trouble = lambda _path, _body: failure("internal", "a bad proxy")
        urls = ("--url", sick.url, "--url", gateway.url)
        assert nla("verbalize", save(tmp_path / "in.parquet"), tmp_path / "out.parquet", *urls) == 0
    assert sick.seen
    assert all(row["error"] is None for row in rows(tmp_path / "out.parquet"))


def test_wrong_settings_bind_nothing(tmp_path: Path, gateway: FakeGateway) -> None:
    gateway.trouble = lambda _path, body: failure("invalid_request", param="top_p") if body["top_p"] > 1 else None
    arguments = ("verbalize", save(tmp_path / "in.parquet"), tmp_path / "out", "--url", gateway.url)
    assert nla(*arguments, "--top-p", "1.5") == 2
    assert nla(*arguments, "--top-p", "0.5") == 0


def test_output_beside_the_input(tmp_path: Path, gateway: FakeGateway) -> None:
    save(tmp_path / "in.parquet")
    arguments = ("verbalize", tmp_path, tmp_path / "out.parquet", "--url", gateway.url)
    assert nla(*arguments) == 0
    assert nla(*arguments) == 0
    assert len(rows(tmp_path / "out.parquet")) == COUNT


def test_a_column_that_parquet_cannot_hold(
    tmp_path: Path, gateway: FakeGateway, capsys: pytest.CaptureFixture[str]
) -> None:
    given = tmp_path / "in.jsonl"
    given.write_text("".join(json.dumps({"meta": {}, "activation_vector": row.tolist()}) + "\n" for row in VECTORS[:9]))
    assert nla("verbalize", given, tmp_path / "out", "--url", gateway.url) == 2
    assert "column 'meta' cannot go along" in capsys.readouterr().err
    assert nla("verbalize", given, tmp_path / "out", "--url", gateway.url, "--drop", "meta") == 0


def test_models_never_mix(tmp_path: Path, gateway: FakeGateway, capsys: pytest.CaptureFixture[str]) -> None:
    given = save(tmp_path / "in.parquet")
    with fake_gateway() as other:
        other.served = info("other")
        assert nla("verbalize", given, tmp_path / "out", "--url", gateway.url, "--url", other.url) == 2
    assert "serves another verbalizer" in capsys.readouterr().err

    def swap(_path: str, _body: Any) -> Any:
        gateway.served = info("other")
        return failure("engine_unavailable") if len(gateway.seen) < 9 else None

    gateway.trouble = swap
    assert nla("verbalize", given, tmp_path / "out", "--url", gateway.url) == 2
    assert "results would mix" in capsys.readouterr().err
    gateway.trouble, gateway.served = lambda _path, _body: None, info()
    assert nla("verbalize", given, tmp_path / "out", "--url", gateway.url) == 0
    gateway.served = info("other")
    assert nla("verbalize", given, tmp_path / "out", "--url", gateway.url) == 2
    assert "was begun with verbalizer fake-av, now other-av" in capsys.readouterr().err


def test_other_weights_of_the_same_name_never_mix(
    tmp_path: Path, gateway: FakeGateway, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("verbalize", save(tmp_path / "in.parquet"), tmp_path / "out", "--url", gateway.url)
    gateway.served["verbalizer"]["fingerprint"] = "a" * 64
    assert nla(*arguments) == 0
    assert json.loads((tmp_path / "out" / "_nla.json").read_text())["served"]["verbalizer"]["fingerprint"] == "a" * 64
    gateway.served["verbalizer"]["fingerprint"] = "b" * 64
    assert nla(*arguments) == 2
    assert "was begun with verbalizer fake-av, now other weights of the same name" in capsys.readouterr().err
    del gateway.served["verbalizer"]["fingerprint"]  # an older server cannot tell
    assert nla(*arguments) == 0
    gateway.served["verbalizer"]["fingerprint"] = "a" * 64
    with fake_gateway() as other:
        other.served["verbalizer"]["fingerprint"] = "b" * 64
        assert nla(*arguments[:2], tmp_path / "two", "--url", gateway.url, "--url", other.url) == 2
    assert "serves another verbalizer than the run began with" in capsys.readouterr().err


def test_weights_of_which_an_engine_elsewhere_tells_are_waited_for(tmp_path: Path, gateway: FakeGateway) -> None:
    gateway.served["verbalizer"]["fingerprint"], gateway.ready = None, False

    def be_there() -> None:
        gateway.served["verbalizer"]["fingerprint"], gateway.ready = "a" * 64, True

    threading.Timer(0.5, be_there).start()
    assert nla("verbalize", save(tmp_path / "in.parquet"), tmp_path / "out", "--url", gateway.url) == 0
    assert json.loads((tmp_path / "out" / "_nla.json").read_text())["served"]["verbalizer"]["fingerprint"] == "a" * 64


@pytest.mark.parametrize(
    ("said", "warnings"),
    [
        ({"extraction": {"base_model": "org/base", "layer_index": 20}}, 0),
        ({"extraction": {"base_model": "org/Other-7B", "layer_index": 19}}, 2),
        ({"activation_layer": 21}, 1),
        ("not: [yaml", 1),
        (["no", "keys"], 0),
    ],
)
def test_a_data_set_from_elsewhere_warns(
    tmp_path: Path, gateway: FakeGateway, capsys: pytest.CaptureFixture[str], said: Any, warnings: int
) -> None:
    given = save(tmp_path / "in.parquet", 0.1 * VECTORS)
    Path(f"{given}.nla_meta.yaml").write_text(said if isinstance(said, str) else json.dumps(said))
    assert nla("verbalize", given, tmp_path / "out", "--url", gateway.url, "--progress", "quiet") == 0
    found = [line for line in capsys.readouterr().err.splitlines() if "in.parquet.nla_meta.yaml: " in line]
    assert len(found) == warnings


def test_a_layer_that_the_server_does_not_know(tmp_path: Path, gateway: FakeGateway) -> None:
    gateway.served["layer"] = None
    given = save(tmp_path / "in.parquet", activation_layer=np.full(COUNT, 19))
    Path(f"{given}.nla_meta.yaml").write_text("activation_layer: 19")
    for _ in range(2):
        assert nla("verbalize", given, tmp_path / "out", "--url", gateway.url) == 0


def test_a_column_that_names_another_layer_warns(
    tmp_path: Path, gateway: FakeGateway, capsys: pytest.CaptureFixture[str]
) -> None:
    given = save(tmp_path / "in.parquet", activation_layer=np.full(COUNT, 19))
    assert nla("verbalize", given, tmp_path / "out", "--url", gateway.url) == 0
    error = capsys.readouterr().err
    assert (
        "column 'activation_layer': these vectors are from layer 19, but the pair explains those of layer 20" in error
    )


def test_a_refused_rows_reason_names_no_place_of_a_request(tmp_path: Path, gateway: FakeGateway) -> None:
    def refuse(_path: str, body: Any) -> Any:
        texts = [it["samples"][0]["text"].split()[0] for it in gateway.answer("verbalize", body)["results"]]
        bad = [k for k, text in enumerate(texts) if text == text_of(VECTORS[70])]
        place = f"vectors[{bad[0]}]" if bad else ""
        return failure("invalid_request", f"{place}: has NaN or infinite elements", place) if bad else None

    gateway.trouble = refuse
    out = tmp_path / "out.parquet"
    assert nla("verbalize", save(tmp_path / "in.parquet"), out, "--url", gateway.url, "--dtype", "float32") == 3
    failed = {row["input_row"]: row["error"] for row in rows(out) if row["error"]}
    assert 70 in failed
    assert set(failed.values()) == {"has NaN or infinite elements"}


def test_no_answer_for_too_long(tmp_path: Path, gateway: FakeGateway, capsys: pytest.CaptureFixture[str]) -> None:
    given, out = save(tmp_path / "in.parquet"), tmp_path / "out.parquet"

    def gone(_path: str, _body: Any) -> Any:
        gateway.ready = len(gateway.seen) <= 3
        return None if gateway.ready else failure("engine_unavailable", "the verbalizer is restarting")

    gateway.trouble = gone
    assert nla("verbalize", given, out, "--url", gateway.url, "--patience", 1, "--seed", 1) == 1
    error = capsys.readouterr().err
    assert "no answer for 1 s" in error
    assert "restarting" in error
    assert not out.exists()
    gateway.trouble, gateway.ready = lambda _path, _body: None, True
    assert nla("verbalize", given, out, "--url", gateway.url, "--seed", 1) == 0
    seeds = [row["explanation"].split()[2] for row in rows(out)]
    assert seeds == [str(1 + k) for k in range(COUNT)]


def test_a_limit_a_minute_is_waited_for(tmp_path: Path, gateway: FakeGateway, clock: Clock) -> None:
    given, out = save(tmp_path / "in.parquet"), tmp_path / "out.parquet"
    gateway.trouble = lambda _path, _body: limited(30) if len(gateway.seen) % 10 else None
    assert nla("verbalize", given, out, "--url", gateway.url) == 0
    assert [row["error"] for row in rows(out)] == [None] * COUNT
    assert set(clock.pauses) == {30}
    assert sum(clock.pauses) > 2 * gateways.PATIENCE_S


def test_a_limit_a_minute_that_never_passes(
    tmp_path: Path, gateway: FakeGateway, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    given, out = save(tmp_path / "in.parquet"), tmp_path / "out.parquet"
    gateway.trouble = lambda _path, _body: limited(30) if 3 < len(gateway.seen) < 1000 else None
    assert nla("verbalize", given, out, "--url", gateway.url, "--seed", 1) == 1
    error = capsys.readouterr().err
    assert "no answer for 600 s (429 overloaded: key: 60 requests a minute, and these are used up: wait" in error
    assert "limit requests a minute, come again in 30 s" in error
    assert set(clock.pauses) == {30}
    assert not out.exists()
    gateway.trouble = lambda _path, _body: None
    assert nla("verbalize", given, out, "--url", gateway.url, "--seed", 1) == 0
    seeds = [row["explanation"].split()[2] for row in rows(out)]
    assert seeds == [str(1 + k) for k in range(COUNT)]


def command(*arguments: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "nla_data", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_killed_again_and_again(tmp_path: Path, gateway: FakeGateway, how: signal.Signals) -> None:
    """Whatever ends it: the same command goes on, each row comes once, and what is there is whole."""
    given, out = save(tmp_path / "in.parquet", np.tile(VECTORS, (8, 1))), tmp_path / "out"
    gateway.trouble = lambda _path, _body: time.sleep(0.02)
    arguments = ("verbalize", given, out, "--url", gateway.url, "--progress", "quiet", "--temperature", "0")
    for _ in range(4):
        before = gateway.vectors
        with command(*arguments) as running:
            while gateway.vectors < before + 600 and running.poll() is None:
                time.sleep(0.005)
            running.send_signal(how)
            _, error = running.communicate(timeout=120)
        if how != signal.SIGKILL:
            assert error == "nla: stopped; the same command goes on where it was\n"
            assert running.returncode == 1
        assert "Traceback" not in error
    assert nla(*arguments) == 0
    told = rows(out)
    assert [row["input_row"] for row in told] == list(range(8 * COUNT))
    seed = json.loads(told[0]["settings"])["seed"]
    assert [int(row["explanation"].split()[2]) for row in told] == [seed + k for k in range(8 * COUNT)]
    assert {path.name for path in out.iterdir() if path.name.startswith(".")} == set()


def test_other_settings_or_input_are_refused(
    tmp_path: Path, gateway: FakeGateway, capsys: pytest.CaptureFixture[str]
) -> None:
    given, out = save(tmp_path / "in.parquet"), tmp_path / "out.parquet"
    base = ("--url", gateway.url)
    assert nla("verbalize", given, out, *base) == 0
    for more, message in (
        (("--temperature", "0"), "temperature 1.0, now 0.0"),
        (("--n", "2"), "n 1, now 2"),
        (("--limit", "7"), "limit None, now 7"),
        (("--seed", "7"), "seed"),
    ):
        assert nla("verbalize", given, out, *base, *more) == 2
        assert message in capsys.readouterr().err
    assert nla("verbalize", save(tmp_path / "other.parquet"), out, *base) == 2
    assert "the input" in capsys.readouterr().err
    time.sleep(0.01)
    save(tmp_path / "in.parquet", VECTORS[:100])
    assert nla("verbalize", given, out, *base) == 2
    assert "it has changed since" in capsys.readouterr().err
    save(tmp_path / "foreign.parquet")
    assert nla("verbalize", given, tmp_path / "foreign.parquet", *base) == 2
    assert "not of this program" in capsys.readouterr().err


def test_a_second_run_keeps_away(tmp_path: Path, gateway: FakeGateway, capsys: pytest.CaptureFixture[str]) -> None:
    told = threading.Event()

    def hold(_path: str, _body: Any) -> None:
        """The first run is there until the second was told so."""
        told.wait(120)

    gateway.trouble = hold
    arguments = ("verbalize", save(tmp_path / "in.parquet"), tmp_path / "out", "--url", gateway.url)
    with command(*arguments) as running:
        while not gateway.seen and running.poll() is None:
            time.sleep(0.01)
        try:
            assert nla(*arguments) == 2
        finally:
            told.set()
        assert running.wait(120) == 0
    assert "another run is writing it" in capsys.readouterr().err


def test_a_full_disk(tmp_path: Path, gateway: FakeGateway) -> None:
    """A real one: a file system of 200 kB would take root, a limit on the size of files does not."""
    given, out = save(tmp_path / "in.parquet", np.tile(VECTORS, (40, 1))), tmp_path / "out"
    arguments = f"verbalize {given} {out} --url {gateway.url} --progress quiet --n 8"
    limited = f"ulimit -f 16; trap '' XFSZ; exec {sys.executable} -m nla_data {arguments}"
    done = subprocess.run(["bash", "-c", limited], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "cannot be written: File too large" in done.stderr
    assert done.stderr.count("\n") == 1
    assert nla(*arguments.split()) == 0
    assert [row["input_row"] for row in rows(out)] == list(range(40 * COUNT))


def test_parts_are_written_by_rows_bytes_and_age(
    tmp_path: Path, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = save(tmp_path / "in.parquet")
    for name, value, least in (("PART_ROWS", 100, 3), ("PART_BYTES", 30_000, 3), ("PART_S", (0.0, 0.0), 5)):
        with monkeypatch.context() as changed:
            changed.setattr(parts, name, value)
            assert nla("verbalize", given, tmp_path / name, "--url", gateway.url) == 0
        assert len(list((tmp_path / name).glob("part-*.parquet"))) >= least
        assert [row["input_row"] for row in rows(tmp_path / name)] == list(range(COUNT))


def test_damaged_output(tmp_path: Path, gateway: FakeGateway, capsys: pytest.CaptureFixture[str]) -> None:
    given, out = save(tmp_path / "in.parquet"), tmp_path / "out"
    arguments = ("verbalize", given, out, "--url", gateway.url, "--patience", "0.5")
    gateway.trouble = lambda _path, _body: failure("engine_unavailable") if len(gateway.seen) > 3 else None
    gateway.ready = False
    assert nla(*arguments) == 1
    part = out / "part-000000.parquet"
    whole = part.read_bytes()
    for damage, message in ((whole[:-9], "not a whole part"), (None, "has parts but no _nla.json")):
        part.write_bytes(damage or whole)
        if damage is None:
            (out / "_nla.json").unlink()
        capsys.readouterr()
        assert nla(*arguments) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (VECTORS[:, :5], "none of the first 256 rows can be used; the first: 5 elements where d_model = 8"),
        (np.where(VECTORS > 2, np.inf, VECTORS).astype(np.float16), "float16 overflows above 65504"),
    ],
)
def test_vectors_that_are_all_wrong(
    tmp_path: Path, gateway: FakeGateway, capsys: pytest.CaptureFixture[str], vectors: Any, message: str
) -> None:
    assert nla("verbalize", save(tmp_path / "in.parquet", vectors), tmp_path / "out", "--url", gateway.url) == 2
    assert message in capsys.readouterr().err
    assert gateway.seen == []


def test_vectors_of_another_layer_warn(
    tmp_path: Path, gateway: FakeGateway, capsys: pytest.CaptureFixture[str]
) -> None:
    given = save(tmp_path / "in.parquet", 100 * VECTORS)
    assert nla("verbalize", given, tmp_path / "out", "--url", gateway.url) == 0
    error = capsys.readouterr().err
    assert "median norm is" in error
    assert "hidden_states[21]" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--column", "acts"), "the input has no column 'acts'; it has token, activation_vector"),
        (("--column", "token"), "column 'token' holds string, not vectors"),
        (("--drop", "x"), "no column 'x'"),
        (("--n", "100"), "n 100 is over the server's limit of 64"),
        (("--max-tokens", "5000"), "max_tokens 5000 is over the server's limit"),
        (("--where", "nope = 1"), "--where"),
        (("--url", "http://127.0.0.1:9"), "does nla-serve run there?"),
        (("--url", "nonsense"), "base_url must look like"),
    ],
)
def test_wrong_arguments_give_one_line(
    tmp_path: Path, gateway: FakeGateway, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    url = () if "--url" in arguments else ("--url", gateway.url)
    assert nla("verbalize", save(tmp_path / "in.parquet"), tmp_path / "out", *url, *arguments) == 2
    error = capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"in.parquet"}
    assert message in error
    assert error.startswith("nla: ")
    assert error.count("\n") == 1
    assert gateway.seen == []


@pytest.mark.parametrize("missing", ["verbalizer", "reconstructor"])
def test_a_server_of_one_engine(tmp_path: Path, gateway: FakeGateway, missing: str) -> None:
    gateway.served[missing] = None
    job = Job(Verbalize(score=True), [save(tmp_path / "in.parquet")], str(tmp_path / "out"), [gateway.url])
    with pytest.raises(UsageError, match=f"serves no {missing}"):
        run_job(job)


def test_no_rows(tmp_path: Path, gateway: FakeGateway) -> None:
    given = save(tmp_path / "in.parquet", layer=np.zeros(COUNT))
    assert nla("verbalize", given, tmp_path / "out.parquet", "--url", gateway.url, "--where", "layer = 1") == 0
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.num_rows == 0
    assert "explanation" in table.schema.names


def test_from_a_running_loop(tmp_path: Path, gateway: FakeGateway) -> None:
    job = Job(Verbalize(), [save(tmp_path / "in.parquet")], str(tmp_path / "out"), [gateway.url])

    async def in_a_notebook() -> int:
        return run_job(job).totals.rows

    assert asyncio.run(in_a_notebook()) == COUNT


def test_a_notebook_that_is_interrupted(tmp_path: Path, gateway: FakeGateway) -> None:
    gateway.trouble = lambda _path, _body: time.sleep(0.3)
    given = save(tmp_path / "in.parquet", np.tile(VECTORS, (20, 1)))
    job = Job(Verbalize(), [given], str(tmp_path / "out"), [gateway.url])

    async def in_a_notebook() -> None:
        run_job(job)

    def interrupt() -> None:
        """Not before it is at work: elsewhere the signal would end this process of tests."""
        wait_for(lambda: bool(gateway.seen))
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    began = time.monotonic()
    loop = asyncio.new_event_loop()  # as a kernel has it; asyncio.run would take the signal for itself
    with pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(in_a_notebook())
    loop.close()
    assert time.monotonic() - began < 40  # all of it takes 47 s
