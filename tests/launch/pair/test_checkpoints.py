"""From what a user writes to a folder; the hub's refusals, which cannot be had here for real, are raised by hand."""

import json
from pathlib import Path
from typing import Any

import httpx
import huggingface_hub
import pytest
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import filter_repo_objects

from nla_launch.errors import LaunchError
from nla_launch.pair.checkpoints import locate

RESPONSE = httpx.Response(403, request=httpx.Request("GET", "https://hub.test/owner/name"))


def hub(monkeypatch: pytest.MonkeyPatch, outcome: Exception | Path) -> list[dict[str, Any]]:
    """Have the hub answer so; returns the calls made."""
    calls: list[dict[str, Any]] = []

    def snapshot_download(repository: str, **arguments: Any) -> str:
        calls.append({"repository": repository, **arguments})
        if isinstance(outcome, Exception):
            raise outcome
        return str(outcome)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return calls


def test_a_folder_is_named_by_its_last_part(tmp_path: Path) -> None:
    folder = tmp_path / "my-verbalizer"
    folder.mkdir()
    found = locate(str(folder), "all")
    assert (found.name, found.folder) == ("my-verbalizer", folder.resolve())


def test_a_folder_inside_a_package() -> None:
    found = locate("package:nla_launch/toy/verbalizer", "all")
    assert found.name == "toy-verbalizer"
    assert found.folder is not None
    assert (found.folder / "nla_meta.yaml").is_file()


def test_a_repository_is_fetched_weights_and_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    calls = hub(monkeypatch, tmp_path)
    found = locate("owner/name", "all")
    assert (found.name, found.folder) == ("owner/name", tmp_path)
    assert "*.safetensors" in calls[0]["allow_patterns"]


def test_a_plan_fetches_the_small_files_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    calls = hub(monkeypatch, tmp_path)
    locate("owner/name", "plan")
    assert set(calls[0]["allow_patterns"]) >= {"config.json", "nla_meta.yaml"}
    assert not [pattern for pattern in calls[0]["allow_patterns"] if "safetensors" in pattern or "*.json" in pattern]


INDEX = {
    "model.embed_tokens.weight": "1.safetensors",
    "model.layers.0.mlp.up_proj.weight": "1.safetensors",
    "model.layers.1.mlp.up_proj.weight": "2.safetensors",
    "model.layers.2.mlp.up_proj.weight": "2.safetensors",
    "model.layers.20.mlp.up_proj.weight": "3.safetensors",
    "model.norm.weight": "4.safetensors",
    "lm_head.weight": "4.safetensors",
    "vision_tower.encoder.layers.0.mlp.fc1.weight": "5.safetensors",
    "model.something_new.weight": "6.safetensors",
}


@pytest.mark.parametrize("inside", ["", "step/source/"])
def test_of_a_source_other_blocks_are_not_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, inside: str) -> None:
    (tmp_path / inside).mkdir(parents=True, exist_ok=True)
    (tmp_path / inside / "config.json").write_text("{}")
    index = tmp_path / inside / "model.safetensors.index.json"
    calls = hub(monkeypatch, tmp_path)
    there = [f"{inside}{number}.safetensors" for number in range(1, 7)] + [f"{inside}config.json", "pytorch_model.bin"]
    source = f"owner/name:{inside[:-1]}" if inside else "owner/name"

    def fetched() -> list[list[str]]:
        calls.clear()
        locate(source, "all", blocks=2)
        return [
            list(
                filter_repo_objects(there, allow_patterns=one["allow_patterns"], ignore_patterns=one["ignore_patterns"])
            )
            for one in calls
        ]

    small, rest = fetched()
    assert (small, rest) == ([f"{inside}config.json"], there[:-1])  # without an index, all of them
    index.write_text(json.dumps({"weight_map": INDEX}))
    small, rest = fetched()
    assert small == [f"{inside}config.json"]
    assert rest == [f"{inside}{name}" for name in ("1.safetensors", "2.safetensors", "6.safetensors", "config.json")]


def test_that_a_source_is_fetched_is_said_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "config.json").write_text("{}")
    hub(monkeypatch, tmp_path)
    with caplog.at_level("INFO"):
        locate("owner/name", "all", blocks=2)
        locate("owner/name", "plan")
    assert caplog.messages == ["fetching owner/name from the hub (what is there already is kept)"]


REFUSALS = {
    "revision": (RevisionNotFoundError("no", response=RESPONSE), "has no revision"),
    "gated": (GatedRepoError("gated", response=RESPONSE), "is gated: ask for access"),
    "missing": (RepositoryNotFoundError("missing", response=RESPONSE), "was not found on the hub"),
    "offline": (LocalEntryNotFoundError("offline"), "the hub cannot be reached"),
    "other": (HfHubHTTPError("429\nslow down", response=RESPONSE), "could not be fetched from the hub: 429 slow down"),
    "proxy": (httpx.ProxyError("403 Forbidden"), "could not be fetched from the hub: 403 Forbidden"),
    "disk": (OSError(28, "No space left on device"), "No space left on device"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals_are_one_clear_line(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    error, message = REFUSALS[name]
    hub(monkeypatch, error)
    with pytest.raises(LaunchError) as caught:
        locate("owner/name", "all")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert locate("owner/name", "plan").folder is None


STEP = "owner/name@main:kl0.01/iter_200/ar"


def test_a_folder_of_a_repository(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "kl0.01/iter_200/ar").mkdir(parents=True)
    (tmp_path / "kl0.01/iter_200/ar/config.json").write_text("{}")
    calls = hub(monkeypatch, tmp_path)
    found = locate(STEP, "all")
    assert (found.folder, found.root) == (tmp_path / "kl0.01/iter_200/ar", tmp_path)
    assert found.name == "owner/name@main/kl0.01/iter_200/ar"
    assert (calls[0]["repository"], calls[0]["revision"]) == ("owner/name", "main")
    files = [
        "kl0.01/iter_200/ar/model.safetensors", "kl0.01/iter_200/ar/more/model.safetensors",
        "kl0.01/iter_200/av/model.safetensors", "kl0.01/nla_meta.yaml", "nla_meta.yaml", "model.safetensors",
    ]  # fmt: skip
    patterns = {"allow_patterns": calls[0]["allow_patterns"], "ignore_patterns": calls[0]["ignore_patterns"]}
    fetched = list(filter_repo_objects(files, **patterns))
    assert fetched == ["kl0.01/iter_200/ar/model.safetensors", "kl0.01/nla_meta.yaml", "nla_meta.yaml"]


def test_of_a_repository_no_other_folders_are_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    calls = hub(monkeypatch, tmp_path)
    assert locate("owner/name@v1.0", "all").name == "owner/name@v1.0"
    patterns = {"allow_patterns": calls[0]["allow_patterns"], "ignore_patterns": calls[0]["ignore_patterns"]}
    assert list(filter_repo_objects(["a.safetensors", "av/a.safetensors"], **patterns)) == ["a.safetensors"]


def test_a_folder_that_the_repository_has_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hub(monkeypatch, tmp_path)
    with pytest.raises(LaunchError, match=r"owner/name has no config\.json in its folder kl0\.01/iter_200/ar"):
        locate(STEP, "all")
    assert locate(STEP, "plan").folder is None


@pytest.mark.parametrize(
    "source",
    ["./missing", "../missing", "owner/name/more", "/no/such/folder", "owner/name:../other", "owner/name:/etc",
     "owner/name@", "owner/name:", "owner/name:a:b", "owner/name:a//b", "name@main"],
)  # fmt: skip
def test_a_path_is_not_taken_for_a_repository(source: str) -> None:
    with pytest.raises(LaunchError, match="neither a folder nor a hub repository"):
        locate(source, "plan")


def test_a_package_that_is_not_installed() -> None:
    with pytest.raises(LaunchError, match="no installed package nowhere"):
        locate("package:nowhere/verbalizer", "all")
