"""Of a source's files those that hold none of its blocks may be missing, and are not read."""

import json
import subprocess
from pathlib import Path

import pytest

from nla_engine.checkpoint import VARIABLE
from nla_engine.hooks.shards import of_first_blocks
from nla_launch.pair.shards import Part, wanted_files
from tests.checkpoints import LAYER, make_pair
from tests.warm import run_program

INDEX = "model.safetensors.index.json"

PREPARE = """
import sys
from sglang.srt.configs.load_config import LoadConfig
from sglang.srt.model_loader import loader
from sglang.srt.plugins.hook_registry import HookRegistry, HookType
from nla_engine.hooks.shards import of_first_blocks
from nla_launch.pair.shards import Part, wanted_files
from nla_engine.names import WEIGHT_FILES
if "hooked" in sys.argv:
    HookRegistry.register(WEIGHT_FILES, of_first_blocks, HookType.AROUND)
    HookRegistry.apply_hooks()
loader.get_server_args = lambda: None  # it asks them for checksums alone
folder, files, _ = loader.DefaultModelLoader(LoadConfig())._prepare_weights(sys.argv[1], None, True)
print("FILES", *sorted(file.rpartition("/")[2] for file in files))
"""


def prepare(folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    files = wanted_files(folder, Part(LAYER + 1))  # as the launcher tells the engine
    told = {VARIABLE: json.dumps({"architecture": "Qwen2ForCausalLM", "blocks": LAYER + 1, "files": files})}
    return run_program(PREPARE, str(folder), *flags, **told)


def test_sglang_wants_all_files_and_with_the_hook_those_of_the_first_blocks(tmp_path: Path) -> None:
    folder = make_pair(tmp_path, "qwen2", sharded=True).av
    named = json.loads((folder / INDEX).read_text())["weight_map"]
    wanted = {file for name, file in named.items() if "embed" in name or ".layers.0." in name or ".layers.1." in name}
    others = set(named.values()) - wanted
    assert others

    def chosen(run: subprocess.CompletedProcess[str]) -> set[str]:
        assert run.returncode == 0, run.stderr
        return set(run.stdout.split("FILES ")[1].split())

    assert chosen(prepare(folder, "hooked")) == wanted
    for file in others:
        (folder / file).unlink()
    refused = prepare(folder)
    assert refused.returncode == 1
    assert "missing" in refused.stderr
    assert chosen(prepare(folder, "hooked")) == wanted


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("model.embed_tokens.weight", True),
        ("model.embeddings.norm.weight", True),
        ("model.layers.1.norm.weight", True),
        ("model.layers.2.norm.weight", False),
        ("language_model.model.layers.12.mlp.up_proj.weight", False),
        ("language_model.model.norm.weight", False),
        ("language_model.lm_head.weight", False),
        ("vision_tower.encoder.layers.0.mlp.fc1.weight", False),
        ("model.something_new.weight", True),
    ],
)
def test_what_two_blocks_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, wanted: bool) -> None:
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {name: "a.safetensors"}}))
    told = {"architecture": "A", "blocks": 2, "files": wanted_files(tmp_path, Part(2))}
    monkeypatch.setenv(VARIABLE, json.dumps(told))
    file = str(tmp_path / "a.safetensors")
    assert of_first_blocks(lambda *_, **__: [], [file], str(tmp_path), INDEX) == ([file] if wanted else [])


@pytest.mark.parametrize("told", [{"architecture": "A"}, {"architecture": "A", "blocks": 2}])
def test_without_an_index_or_blocks_the_choice_is_sglangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: dict[str, object]
) -> None:
    monkeypatch.setenv(VARIABLE, json.dumps(told))
    if "blocks" not in told:
        (tmp_path / INDEX).write_text("{}")
    assert of_first_blocks(lambda files, *_, **__: [*files, "own"], ["a"], str(tmp_path), INDEX) == ["a", "own"]
