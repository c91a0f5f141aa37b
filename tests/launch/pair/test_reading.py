"""A source: its layer, its blocks and its weights, of which those beyond the layer need not be there."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from nla_gateway.description import Description, Origin
from nla_gateway.roles import Role
from nla_launch.errors import LaunchError
from nla_launch.pair.bases import served_config, whole_config
from nla_launch.pair.checkpoints import Checkpoint, locate
from nla_launch.pair.model_config import ModelConfig, read_config
from nla_launch.pair.preflight import check_checkpoints, describe_checkpoints
from nla_launch.pair.rules import NO_RULES, Rules
from nla_launch.pair.shards import Part, is_wanted, wanted_files
from tests.checkpoints import D_MODEL, LAYER, Pair, edit_sidecar, make_pair

BEYOND = f"model.layers.{LAYER + 1}."
INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """A pair in many files; the verbalizer's is as good a base as any."""
    pair = make_pair(tmp_path_factory.mktemp("sharded"), "gemma3", sharded=True)
    shutil.copytree(pair.av, pair.av.parent / "source")
    (pair.av.parent / "source" / "nla_meta.yaml").unlink()
    return pair


@pytest.fixture
def pair(sharded: Pair, tmp_path: Path) -> Pair:
    shutil.copytree(sharded.av.parent / "source", tmp_path / "source")
    return sharded.copy(tmp_path)


def found(pair: Pair, *roles: Role) -> dict[Role, Checkpoint]:
    folders = {Role.AV: pair.av, Role.AR: pair.ar, Role.SOURCE: pair.av.parent / "source"}
    return {role: locate(str(folders[role]), "all") for role in roles or Role}


def check(checkpoints: Mapping[Role, Checkpoint], rules: Rules = NO_RULES) -> Description:
    described = describe_checkpoints(checkpoints, rules)
    check_checkpoints(checkpoints, described)
    return described[Role.SOURCE]


def served(checkpoint: Checkpoint, description: Description) -> ModelConfig:
    config = whole_config(Role.SOURCE, checkpoint)
    assert config is not None
    return served_config(checkpoint, config, description)


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def drop(folder: Path, unwanted: Callable[[str], bool]) -> list[str]:
    """Take tensors out of the files, and files that are empty then away; the index stays. Returns those files."""
    gone = []
    for path in folder.glob("*.safetensors"):
        kept = {name: value for name, value in load_file(path).items() if not unwanted(name)}
        path.unlink()
        if kept:
            save_file(kept, path, {"format": "pt"})
        else:
            gone.append(path.name)
    return gone


def test_what_is_known_of_a_source(pair: Pair) -> None:
    checkpoints = found(pair)
    source = check(checkpoints)
    assert (source.role, source.d_model, source.layer) == (Role.SOURCE, D_MODEL, LAYER)
    assert source.source is not None
    assert source.source.blocks == LAYER + 1
    assert source.template == ""
    assert source.origin == {"d_model": Origin.CONFIG, "layer": Origin.OTHER, "source.blocks": Origin.FROM_LAYER}
    config = served(checkpoints[Role.SOURCE], source)
    assert config.blocks == LAYER + 1
    assert config.changed == {"num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"]}


def test_the_layer_is_the_presets_the_reconstructors_or_the_verbalizers(pair: Pair) -> None:
    stated = describe_checkpoints(found(pair, Role.SOURCE), Rules(layer=0))[Role.SOURCE]
    assert (stated.layer, stated.origin["layer"]) == (0, Origin.PRESET)
    both = describe_checkpoints(found(pair, Role.SOURCE, Role.AV))[Role.SOURCE]
    assert (both.layer, both.origin["layer"]) == (LAYER, Origin.SIDECAR)
    with pytest.raises(LaunchError, match=r"source is read is not stated: add `layer: N` to a preset"):
        describe_checkpoints(found(pair, Role.SOURCE))
    assert describe_checkpoints(found(pair, Role.SOURCE), fetched=False) == {}


def test_a_sidecar_in_its_folder_is_not_read(pair: Pair) -> None:
    shutil.copy(pair.ar / "nla_meta.yaml", pair.av.parent / "source")
    edit_sidecar(pair.av.parent / "source", {"extraction_layer_index": 0, "d_model": 3})
    assert check(found(pair)).layer == LAYER


def test_weights_of_other_blocks_may_be_missing(pair: Pair) -> None:
    folder = pair.av.parent / "source"
    whole = served(found(pair)[Role.SOURCE], check(found(pair)))
    gone = drop(folder, lambda name: name.startswith((BEYOND, "model.norm.", "lm_head.")))
    wanted = wanted_files(folder, Part(LAYER + 1))
    assert wanted is not None
    assert gone
    assert not {*gone} & {*wanted}
    assert served(found(pair)[Role.SOURCE], check(found(pair))) == whole
    assert read_config(folder).stored is None  # as a whole model it is not here


def test_a_verbalizer_whose_fetch_was_cut_short_is_planned_and_then_named(pair: Pair) -> None:
    named = json.loads((pair.av / INDEX).read_text())["weight_map"]
    (pair.av / named[f"{BEYOND}mlp.up_proj.weight"]).unlink()
    checkpoints = found(pair, Role.AV)
    assert read_config(pair.av).stored is None
    with pytest.raises(LaunchError, match=r"\.safetensors is missing, or no file of safetensors: fetch it again"):
        check_checkpoints(checkpoints, describe_checkpoints(checkpoints))


def no_tokenizer(folder: Path) -> None:
    for path in folder.glob("token*"):
        path.unlink()


def without_index(folder: Path) -> None:
    drop(folder, lambda name: name.startswith("model.layers.0."))
    (folder / INDEX).unlink()


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "few blocks": (
        lambda p: edit(p / "config.json", num_hidden_layers=1, layer_types=["full_attention"]),
        "read at layer 1, but config.json says num_hidden_layers 1",
    ),
    "wide": (lambda p: edit(p / "config.json", hidden_size=128), "the source's d_model is 128, the pair's 64"),
    "no config": ((lambda p: (p / "config.json").unlink()), "has no config.json"),
    "no weights": (lambda p: drop(p, lambda _: True), "has no *.safetensors weights"),
    "a file missing": (lambda p: drop(p, lambda n: n.startswith("model.layers.1.")), "is missing, or no file of"),
    "a block missing": (without_index, "its weights lack the embedding table or one of the blocks 0 to 1"),
    "no tokenizer": (no_tokenizer, "has no tokenizer: fetch the whole checkpoint"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_no_source(pair: Pair, fault: str) -> None:
    break_it, message = FAULTS[fault]
    break_it(pair.av.parent / "source")
    with pytest.raises(LaunchError) as caught:
        check(found(pair))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_by_itself_it_is_held_to_what_the_presets_layer_says(pair: Pair) -> None:
    with pytest.raises(LaunchError, match=r"read at layer 3, but config\.json says num_hidden_layers 3"):
        check(found(pair, Role.SOURCE), Rules(layer=3))


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("model.embed_tokens.weight", True),
        ("model.layers.1.mlp.gate_proj.weight", True),
        ("model.layers.2.mlp.gate_proj.weight", False),
        ("model.layers.10.input_layernorm.weight", False),
        ("language_model.model.layers.1.self_attn.q_norm.weight", True),
        ("language_model.model.norm.weight", False),
        ("vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight", False),
        ("multi_modal_projector.mm_soft_emb_norm.weight", False),
        ("model.norm.weight", False),
        ("lm_head.weight", False),
        ("model.embeddings.norm.weight", True),
        ("model.something_new.weight", True),
    ],
)
def test_what_two_blocks_need(name: str, wanted: bool) -> None:
    assert is_wanted(name, Part(2)) is wanted


@pytest.mark.parametrize("name", ["model.norm.weight", "transformer.ln_f.weight"])
def test_a_norm_that_is_kept_is_needed(name: str) -> None:
    assert is_wanted(name, Part(2, final_norm=True))
