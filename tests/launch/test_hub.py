"""Checkpoints from the hub: the hub's real client against a small hub of the tests' own."""

import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any, Final, cast

import huggingface_hub.constants
import pytest
import torch
from transformers import AutoModelForCausalLM

from nla_gateway.roles import Role
from nla_launch.errors import LaunchError
from nla_launch.flags import build_parser
from nla_launch.pair import fetching
from nla_launch.pair.bars import Bars
from nla_launch.pair.checkpoints import find, wanted_of
from nla_launch.pair.hub import resolved
from nla_launch.pairs import asked_for
from nla_launch.plan import planning
from nla_launch.plan.plan import EnginePlan
from tests.adapters import save_adapter, save_single_file
from tests.checkpoints import D_MODEL, LAYER, Pair, make_pair
from tests.hub import CHUNK, PIECE, Hub, at_hand
from tests.plain import wait_for

FLAGS: Final = ["--av", "o/av", "--ar", "o/ar", "--device", "cpu"]
LARGE: Final = 8_000_000
"""Bytes of a file that takes a while."""


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    pair = make_pair(tmp_path_factory.mktemp("pair"), "qwen2", sharded=True)
    base = pair.av.parent / "base"
    shutil.copytree(pair.av, base)
    (base / "nla_meta.yaml").unlink()
    (pair.av / "pytorch_model.bin").write_bytes(bytes(1000))
    (base / "consolidated.00.safetensors").write_bytes(bytes(1000))
    return pair


@pytest.fixture
def there(pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with the pair, for the client of this process; nothing is in its cache."""
    copies = {name: tmp_path / "there" / name for name in ("av", "ar", "base")}
    for name, folder in (("av", pair.av), ("ar", pair.ar), ("base", pair.av.parent / "base")):
        shutil.copytree(folder, copies[name])
    monkeypatch.setattr(fetching, "PAUSES_S", (0.1, 0.1))
    repositories = {f"o/{name}": folder for name, folder in copies.items()}
    with at_hand(repositories, tmp_path / "cache", monkeypatch) as started:
        yield started


def planned(*flags: str) -> Mapping[Role, EnginePlan]:
    (pair,) = planning.plan_all(asked_for(build_parser().parse_args(flags)))
    return {engine.role: engine for engine in pair.engines}


def test_all_that_is_needed_comes_once_and_of_one_commit(there: Hub, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        engines = planned(*FLAGS, "--source", "o/base")
    for role, engine in engines.items():
        name = "o/base" if role is Role.SOURCE else f"o/{role}"
        assert engine.checkpoint.revision == there.commit(name)
        assert engine.checkpoint.folder is not None
        assert engine.checkpoint.folder.name == there.commit(name)
    assert [line for line in caplog.messages if "fetch" in line] == [
        "fetching from the hub what is not here yet: o/av (0.6 MB), o/ar (0.4 MB), o/base (0.4 MB)",
        "fetched all",
    ]
    for name in there.repositories:
        files = [str(file) for file in there.files(name)]
        for file, count in ((file, there.sent.get(f"{name}/{file}", 0)) for file in files):
            assert count in (0, (there.repositories[name] / file).stat().st_size), file
    assert not [name for name in there.sent if "pytorch_model" in name or "consolidated" in name]
    source = engines[Role.SOURCE].config
    assert source is not None
    assert source.blocks == LAYER + 1
    assert source.stored is not None
    named = json.loads((there.repositories["o/base"] / "model.safetensors.index.json").read_text())["weight_map"]
    wanted = {file for name, file in named.items() if ".layers.0." in name or ".layers.1." in name or "embed" in name}
    assert there.weights("o/base") == wanted < set(named.values()) == there.weights("o/av")
    there.asked.clear()
    planned(*FLAGS, "--source", "o/base")
    assert there.asked == []
    resolved.cache_clear()  # a second start
    planned(*FLAGS, "--source", "o/base")
    assert there.asked == [f"GET /api/models/{name}" for name in there.repositories]


def test_both_checkpoints_come_at_the_same_time(there: Hub) -> None:
    def large() -> list[str]:
        return [line.split("/")[3] for line in there.asked if line.startswith("GET /stored/")]

    there.meanwhile = lambda: {*large()} == {"av", "ar"}
    planned(*FLAGS)
    assert large().index("ar") < len(large()) - 1 - large()[::-1].index("av")
    assert large().index("av") < len(large()) - 1 - large()[::-1].index("ar")


def test_a_commit_that_comes_meanwhile_is_of_the_next_start(there: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    before = there.commit("o/av")
    fetch_all = planning.fetch_all

    def changed(wanted: Any) -> None:
        (there.repositories["o/av"] / "README.txt").write_text("a later commit")
        fetch_all(wanted)

    monkeypatch.setattr(planning, "fetch_all", changed)
    with pytest.raises(LaunchError, match="has no revision"):  # this hub forgets what was; a real one does not
        planned(*FLAGS)
    assert not [line for line in there.asked if there.commit("o/av") in line]
    assert [line for line in there.asked if f"/o/av/resolve/{before}/model-" in line]


def test_a_sending_that_breaks_off_goes_on_where_it_was(there: Hub) -> None:
    there.cuts = {"model-00001-of-00007.safetensors": 1}
    there.busy = {"model-00002-of-00007.safetensors": 1}
    engines = planned(*FLAGS)
    assert engines.keys() == {Role.AV, Role.AR}
    cut = "o/av/model-00001-of-00007.safetensors"
    assert 0 <= there.sent[cut] - (there.repositories["o/av"] / cut[5:]).stat().st_size < CHUNK


def test_what_may_pass_is_tried_again(there: Hub, caplog: pytest.LogCaptureFixture) -> None:
    there.unwell = {"value_head.safetensors": 2}
    with caplog.at_level(logging.WARNING, "nla_launch"):
        planned(*FLAGS)
    assert [re.sub(r": .*;", ": ...;", line) for line in caplog.messages] == [
        "o/ar could not be fetched from the hub: ...; tried again in 0 s"
    ] * 2


def test_what_does_not_pass_is_said_in_one_line(there: Hub) -> None:
    there.unwell = {"value_head.safetensors": 9}
    with pytest.raises(LaunchError) as caught:
        planned(*FLAGS)
    assert re.fullmatch(r"o/ar could not be fetched from the hub: .*503.*", str(caught.value))


def test_where_one_fails_nobody_waits_for_the_others(there: Hub) -> None:
    large = there.repositories["o/av"] / "model-00001-of-00007.safetensors"
    large.write_bytes(large.read_bytes() + bytes(LARGE))
    there.unwell, there.bytes_a_second = {"value_head.safetensors": 9}, 5e4
    with pytest.raises(LaunchError, match="o/ar could not be fetched"):
        planned(*FLAGS)
    assert there.sent[f"o/av/{large.name}"] < LARGE / 2


def test_files_that_two_want_come_once(there: Hub, caplog: pytest.LogCaptureFixture) -> None:
    """A pair in folders of one repository, of which one is read as the source, too."""
    root = there.repositories["o/av"].parent
    there.repositories["o/all"] = root
    with caplog.at_level(logging.INFO):
        planned("--av", "o/all:av", "--ar", "o/all:ar", "--source", "o/all:av", "--device", "cpu")
    (said,) = [line for line in caplog.messages if "not here yet" in line]
    assert said.endswith(": o/all/av (0.6 MB), o/all/ar (0.4 MB)")
    for name in there.weights("o/all"):
        assert there.sent[f"o/all/{name}"] == (root / name).stat().st_size


def test_without_a_layer_nothing_large_is_fetched(there: Hub) -> None:
    with pytest.raises(LaunchError, match="o/base: the layer at which the source is read is not stated"):
        planned("--only", "source", "--source", "o/base", "--device", "cpu")
    assert there.weights("o/base") == set()


def test_a_gated_repository(there: Hub) -> None:
    there.gated = {"o/ar"}
    with pytest.raises(LaunchError, match="o/ar is gated: ask for access on its hub page"):
        planned(*FLAGS)
    assert there.weights("o/av") == set()  # before anything large comes


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--av", "o/none", "--ar", "o/ar"], "o/none was not found on the hub: check the name"),
        (["--av", "o/av@v9", "--ar", "o/ar"], "o/av has no revision v9: check its branches"),
        (["--av", "o/av:step/1", "--ar", "o/ar"], r"o/av has no config\.json in its folder step/1"),
    ],
)
def test_what_is_not_there(there: Hub, flags: list[str], problem: str) -> None:
    with pytest.raises(LaunchError, match=problem):
        planned(*flags, "--device", "cpu")
    assert there.weights("o/av") == set()


def test_a_full_disk_is_said_before_anything_large_comes(there: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 10**5))  # type: ignore[attr-defined]
    with pytest.raises(
        LaunchError, match=r"o/av and o/ar: 1\.1 MB are to be fetched, and .*cache has room for 0\.1 MB"
    ):
        planned(*FLAGS)
    assert there.weights("o/av") == there.weights("o/ar") == set()


@pytest.mark.parametrize(
    ("how", "listed"),
    [("unreachable", True), ("unreachable", False), ("offline", False), ("401", False), ("429", True)],
)
def test_what_is_there_is_served_without_the_hub(
    there: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, how: str, listed: bool
) -> None:
    def revisions() -> dict[Role, str | None]:
        return {role: engine.checkpoint.revision for role, engine in planned(*FLAGS, "--source", "o/base").items()}

    before = revisions()
    if not listed:  # as older clients leave it
        for listing in (tmp_path / "cache").glob("*/trees"):
            shutil.rmtree(listing)
    resolved.cache_clear()
    if how == "unreachable":
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    elif how == "offline":
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    else:
        there.refused = int(how)
    assert revisions() == before


def test_a_push_that_leaves_the_weights_fetches_none(there: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    planned(*FLAGS)
    for name in ("o/av", "o/ar"):
        (there.repositories[name] / "notes.txt").write_text("something new")
    there.sent.clear()
    resolved.cache_clear()
    monkeypatch.setattr(fetching.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 10**3))  # type: ignore[attr-defined]
    assert planned(*FLAGS)[Role.AV].checkpoint.revision == there.commit("o/av")
    assert there.sent.keys() == {"o/av/notes.txt", "o/ar/notes.txt"}


def test_a_commit_or_a_tag_may_be_named(there: Hub) -> None:
    commit = there.commit("o/av")
    there.tags["v1.0"] = commit
    for revision in (commit, "v1.0"):
        engine = planned("--av", f"o/av@{revision}", "--ar", "o/ar", "--device", "cpu")[Role.AV]
        assert (engine.checkpoint.name, engine.checkpoint.revision) == (f"o/av@{revision}", commit)


def test_a_base_that_is_here_and_an_adapter_that_is_not_yet(there: Hub, tmp_path: Path) -> None:
    """As after a fetch that was ended between the two: the head is the adapter's."""
    base, adapter = there.repositories["o/ar"], tmp_path / "there" / "adapter"
    save_adapter(AutoModelForCausalLM.from_pretrained(base), adapter, target_modules=["q_proj"])
    (base / "value_head.safetensors").rename(adapter / "value_head.safetensors")
    there.repositories["o/adapter"] = adapter
    find("o/ar", "all")
    flags = ("--av", "o/av", "--ar", "o/ar", "--ar-adapter", "o/adapter", "--device", "cpu")
    checkpoint = planned(*flags)[Role.AR].checkpoint
    assert (checkpoint.name, checkpoint.revision) == ("o/adapter", there.commit("o/adapter"))
    assert there.weights("o/adapter") == {"adapter_model.safetensors", "value_head.safetensors"}


@pytest.fixture
def adapted(there: Hub, pair: Pair, tmp_path: Path) -> Hub:
    """With adapters of the base: the reconstructor's has its head, and each its sidecar."""
    base = there.repositories["o/base"]
    for role, folder in (("av", pair.av), ("ar", pair.ar)):
        adapter = tmp_path / "there" / f"{role}-adapter"
        save_adapter(AutoModelForCausalLM.from_pretrained(base), adapter, target_modules=["q_proj"])
        shutil.copy(folder / "nla_meta.yaml", adapter)
        there.repositories[f"o/{role}-adapter"] = adapter
    shutil.copy(pair.ar / "value_head.safetensors", tmp_path / "there" / "ar-adapter")
    return there


AV_BASED: Final = ("--av", "o/base", "--av-adapter", "o/av-adapter")
AR_BASED: Final = ("--ar", "o/base", "--ar-adapter", "o/ar-adapter")
ONLY_AR: Final = (*AR_BASED, "--only", "ar", "--device", "cpu")


def of_blocks(hub: Hub, *more: str) -> set[str]:
    """The base's files that hold what the reconstructor's blocks need, or that hold one of these tensors."""
    named = json.loads((hub.repositories["o/base"] / "model.safetensors.index.json").read_text())["weight_map"]
    first = [f".layers.{block}." for block in range(LAYER + 1)]
    return {file for name, file in named.items() if any(part in name for part in (*first, "embed", *more))}


def test_of_a_reconstructors_base_the_first_blocks_come(adapted: Hub, tmp_path: Path) -> None:
    engine = planned(*ONLY_AR)[Role.AR]
    first, all_of_them = of_blocks(adapted), of_blocks(adapted, "model.")
    assert adapted.weights("o/base") == first < all_of_them
    assert adapted.weights("o/ar-adapter") == {"adapter_model.safetensors", "value_head.safetensors"}
    assert engine.config is not None
    assert engine.config.stored is not None
    assert engine.fingerprint is not None
    adapted.asked.clear()
    assert planned(*ONLY_AR)[Role.AR].fingerprint == engine.fingerprint
    assert adapted.asked == []
    find("o/base", "all")  # all of it, for somebody else
    assert adapted.weights("o/base") > all_of_them
    assert planned(*ONLY_AR)[Role.AR].fingerprint == engine.fingerprint


def test_a_norm_that_stays_comes_too(adapted: Hub, tmp_path: Path) -> None:
    preset = tmp_path / "own.yaml"
    preset.write_text("name: own\nav: null\nar: null\nreconstructor: {final_norm: true}\n")
    planned("--preset", str(preset), *ONLY_AR)
    assert adapted.weights("o/base") == of_blocks(adapted, "model.norm.") > of_blocks(adapted)


@pytest.mark.parametrize("name", ["value_head.safetensors", "own.safetensors"])
def test_a_head_that_is_the_bases_comes(adapted: Hub, tmp_path: Path, name: str) -> None:
    """Under its own name, or one that a preset states."""
    head, preset = adapted.repositories["o/ar-adapter"] / "value_head.safetensors", tmp_path / "own.yaml"
    head.rename(adapted.repositories["o/base"] / name)
    stated = "" if name == head.name else f"reconstructor: {{value_head: {{file: {name}, weight: weight}}}}\n"
    preset.write_text(f"name: own\nav: null\nar: null\n{stated}")
    planned("--preset", str(preset), *ONLY_AR)
    assert adapted.weights("o/base") == of_blocks(adapted) | {name}


def test_a_reconstructor_of_a_base_without_any_head(adapted: Hub) -> None:
    (adapted.repositories["o/ar-adapter"] / "value_head.safetensors").unlink()
    with pytest.raises(LaunchError, match=r"value_head\.safetensors.*which a reconstructor needs.*value_head: none"):
        planned(*ONLY_AR)


def test_a_base_that_both_have_comes_whole_and_once(adapted: Hub) -> None:
    planned(*AR_BASED, *AV_BASED, "--device", "cpu")
    root = adapted.repositories["o/base"]
    assert adapted.weights("o/base") == {path.name for path in root.glob("model-*.safetensors")}
    assert_each_once(adapted)


def test_of_a_base_that_is_the_source_too_what_either_needs_comes_once(adapted: Hub, tmp_path: Path) -> None:
    preset = tmp_path / "own.yaml"
    preset.write_text("name: own\nav: o/av\nar: null\nreconstructor: {final_norm: true}\n")
    planned("--preset", str(preset), *AR_BASED, "--source", "o/base", "--device", "cpu")
    assert adapted.weights("o/base") == of_blocks(adapted, "model.norm.")
    assert_each_once(adapted)


def assert_each_once(hub: Hub) -> None:
    root = hub.repositories["o/base"]
    for name in hub.weights("o/base"):
        assert hub.sent[f"o/base/{name}"] == (root / name).stat().st_size, name


def test_a_single_file_that_is_not_here_yet_of_a_base_that_is(adapted: Hub, pair: Pair, tmp_path: Path) -> None:
    backbone, single = AutoModelForCausalLM.from_pretrained(pair.av.parent / "base"), tmp_path / "there" / "single"
    backbone.model.layers = backbone.model.layers[: LAYER + 1]
    save_single_file(backbone, single, torch.eye(D_MODEL), use_rslora=True)
    shutil.copy(pair.ar / "nla_meta.yaml", single)
    adapted.repositories["o/single"] = single
    find("o/base", "all")
    flags = ("--ar", "o/base", "--ar-adapter", "o/single", "--only", "ar", "--device", "cpu")
    assert planned(*flags)[Role.AR].checkpoint.revision == adapted.commit("o/single")


def test_progress_is_told(there: Hub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(fetching, "SPEAK_S", 0.2)
    there.bytes_a_second = 1e5
    with caplog.at_level(logging.INFO):
        planned(*FLAGS)
    told = [
        re.fullmatch(r"fetched ([\d.]+) MB of 1\.1 MB, \d+ MB/s(, about \d+ s left)?", line) for line in caplog.messages
    ]
    assert any(one and one[2] for one in told)
    came = [float(one[1]) for one in told if one]
    assert len(came) > 2
    assert came == sorted(came)
    assert came[-1] > 0.5


@pytest.mark.parametrize(
    ("came", "seconds", "line"),
    [
        (10e9, 100, "fetched 10.0 GB of 40.0 GB, 100 MB/s, about 5 min left"),
        (39e9, 100, "fetched 39.0 GB of 40.0 GB, 390 MB/s, about 3 s left"),
        (0, 5, "fetched 0.0 MB of 40.0 GB, 0 MB/s"),
    ],
)
def test_large_ones_are_told_in_gigabytes_and_minutes(
    came: int, seconds: int, line: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    times, over = iter([0, seconds]), iter([False, True])
    monkeypatch.setattr(fetching, "time", SimpleNamespace(monotonic=lambda: next(times)))
    ended = SimpleNamespace(wait=lambda _: next(over))
    fetch: Any = SimpleNamespace(size=40e9, received=came)
    with caplog.at_level(logging.INFO):
        fetching._tell([fetch], cast(Event, ended))
    assert caplog.messages == [line]


def test_each_byte_counts_once(there: Hub) -> None:
    there.cuts = {"model-00001-of-00007.safetensors": 1}
    find("o/av", "all but weights")
    (wanted,), bars = wanted_of("o/av"), Bars()
    size = sum(wanted.to_come().values())
    wanted.fetch(bars.made)
    assert bars.received == pytest.approx(size, abs=CHUNK)
    assert wanted.to_come() == {}


def test_a_fetch_that_is_killed_goes_on_with_what_is_left(there: Hub, tmp_path: Path) -> None:
    """As a user does it: nla-serve is killed, and started again; what was whole stays, what was not takes no room."""
    whole, again = ("o/av/model-00001-of-00007.safetensors", "o/av/model-00007-of-00007.safetensors")
    file = there.repositories["o/av"] / again.removeprefix("o/av/")
    file.write_bytes(file.read_bytes() + bytes(LARGE))
    there.bytes_a_second = 1e5
    environment = {
        **os.environ, "HF_ENDPOINT": there.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_TELEMETRY": "1"
    }  # fmt: skip
    command = [sys.executable, "-m", "nla_launch", *FLAGS, "--port", "0"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as first:
        blobs = tmp_path / "home" / "hub" / "models--o--av" / "blobs"
        wait_for(lambda: there.sent.get(again, 0) > 3 * PIECE and len(list(blobs.glob("*.incomplete"))) == 1, 600)
        first.send_signal(signal.SIGKILL)
    (left,) = blobs.glob("*.incomplete")
    os.utime(left, (time.time() - 100, time.time() - 100))
    there.bytes_a_second = None
    before = dict(there.sent)
    script = "from nla_launch.pair.fetching import fetch_all; from nla_launch.pair.checkpoints import find, wanted_of;"
    script += "find('o/av', 'all but weights'); fetch_all(wanted_of('o/av')); print(find('o/av', 'all').folder)"
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()).name == there.commit("o/av")
    assert there.sent[whole] == before[whole]
    assert not left.exists()
    on_the_way = there.sent[again] - before[again] - (there.repositories["o/av"] / again[5:]).stat().st_size
    assert 0 <= on_the_way <= 2 * PIECE
    assert (Path(done.stdout.strip()) / file.name).read_bytes() == file.read_bytes()
    assert not list(blobs.glob("*.incomplete"))
