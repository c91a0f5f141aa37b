"""From what a user writes to a folder; on the hub, that of the tests."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from nla_launch.errors import LaunchError
from nla_launch.pair.checkpoints import locate
from nla_launch.pair.hub import Place, refusal
from nla_launch.pair.shards import Part
from tests.hub import Hub, at_hand

RESPONSE = httpx.Response(403, request=httpx.Request("GET", "https://hub.test/owner/name"))
SMALL = ("config.json", "nla_meta.yaml", "tokenizer.json")


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with one repository, empty yet."""
    (tmp_path / "there").mkdir()
    with at_hand({"owner/name": tmp_path / "there"}, tmp_path / "cache", monkeypatch) as started:
        yield started


def put(hub: Hub, folder: str, *names: str, **contents: str) -> None:
    """Put files into the repository: small ones, and what is named."""
    root = hub.repositories["owner/name"] / folder
    root.mkdir(parents=True, exist_ok=True)
    unlike = {name: json.dumps({"file": f"{folder}/{name}"}) for name in (*SMALL, *names)}  # of those alike one comes
    for name, content in (unlike | contents).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)


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


def test_a_repository_is_fetched_weights_and_all(there: Hub) -> None:
    put(there, "", "model.safetensors", "pytorch_model.bin")
    found = locate("owner/name", "all")
    assert found.folder is not None
    assert (found.name, found.folder.name) == ("owner/name", there.commit("owner/name"))
    assert found.revision == there.commit("owner/name")
    assert there.came("owner/name") == {*SMALL, "model.safetensors"}
    assert sorted(path.name for path in found.folder.iterdir()) == sorted(there.came("owner/name"))


def test_a_plan_fetches_the_small_files_alone(there: Hub) -> None:
    put(there, "", "model.safetensors")
    locate("owner/name", "plan")
    assert there.came("owner/name") == {"config.json", "nla_meta.yaml"}


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


@pytest.mark.parametrize("inside", ["", "step/source"])
def test_of_a_source_other_blocks_are_not_fetched(there: Hub, inside: str) -> None:
    source = f"owner/name:{inside}" if inside else "owner/name"
    below = f"{inside}/" if inside else ""
    weights = [f"{number}.safetensors" for number in range(1, 7)]
    put(
        there,
        inside,
        *weights,
        "pytorch_model.bin",
        **{"model.safetensors.index.json": json.dumps({"weight_map": INDEX})},
    )
    locate(source, "all", part=Part(2))
    assert there.weights("owner/name") == {f"{below}{number}.safetensors" for number in (1, 2, 6)}


def test_without_an_index_all_weights_are_fetched(there: Hub) -> None:
    put(there, "", "1.safetensors", "2.safetensors")
    locate("owner/name", "all", part=Part(2))
    assert there.weights("owner/name") == {"1.safetensors", "2.safetensors"}


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
def test_refusals_are_one_clear_line(name: str) -> None:
    error, message = REFUSALS[name]
    told = refusal(error, Place("owner/name", "v1", None))
    assert message in told
    assert "\n" not in told


def test_what_cannot_be_fetched_is_no_hindrance_to_a_plan(there: Hub) -> None:
    assert locate("owner/other", "plan").folder is None
    with pytest.raises(LaunchError, match="owner/other was not found on the hub"):
        locate("owner/other", "all")


STEP = "owner/name@main:kl0.01/iter_200/ar"


def test_a_folder_of_a_repository(there: Hub) -> None:
    put(there, "kl0.01/iter_200/ar", "model.safetensors", "more/model.safetensors")
    put(there, "kl0.01/iter_200/av", "model.safetensors")
    put(there, "kl0.01")
    put(there, "", "model.safetensors")
    found = locate(STEP, "all")
    assert found.root is not None
    assert (found.root.name, found.folder) == (there.commit("owner/name"), found.root / "kl0.01/iter_200/ar")
    assert found.name == "owner/name@main/kl0.01/iter_200/ar"
    step = {f"kl0.01/iter_200/ar/{name}" for name in (*SMALL, "model.safetensors")}
    assert there.came("owner/name") == {*step, "kl0.01/nla_meta.yaml", "nla_meta.yaml"}


def test_of_a_repository_no_other_folders_are_fetched(there: Hub) -> None:
    put(there, "", "a.safetensors", "av/a.safetensors")
    assert locate("owner/name@main", "all").name == "owner/name@main"
    assert there.weights("owner/name") == {"a.safetensors"}


def test_a_folder_that_is_named_as_a_second_copy_of_weights(there: Hub) -> None:
    put(there, "consolidated-av", "model.safetensors", "consolidated.00.safetensors")
    locate("owner/name:consolidated-av", "all")
    assert there.weights("owner/name") == {"consolidated-av/model.safetensors"}


def test_a_folder_that_the_repository_has_not(there: Hub) -> None:
    put(there, "")
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
