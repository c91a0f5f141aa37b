"""config.json, with and without what may be left out of it."""

import json
from pathlib import Path
from typing import Any

import pytest

from nla_launch.errors import LaunchError
from nla_launch.pair.model_config import read_config

SPARSE_GEMMA = {
    "architectures": ["Gemma3ForConditionalGeneration"],
    "model_type": "gemma3",
    "text_config": {
        "model_type": "gemma3_text",
        "hidden_size": 3840,
        "intermediate_size": 15360,
        "num_attention_heads": 16,
        "num_hidden_layers": 48,
        "num_key_value_heads": 8,
    },
    "vision_config": {"model_type": "siglip_vision_model"},
}


def write(folder: Path, config: Any) -> Path:
    (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    return folder


def test_what_is_left_out_has_its_default(tmp_path: Path) -> None:
    config = read_config(write(tmp_path, SPARSE_GEMMA))
    assert (config.architecture, config.head_dim, config.vocabulary) == ("Gemma3ForConditionalGeneration", 256, 262208)
    assert (config.d_model, config.blocks, config.tied) == (3840, 48, True)
    assert config.max_positions >= 32768


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("[1]", "not a JSON object"),
        ("{", "not a JSON object"),
        ({"architectures": ["X"]}, "not the config of a supported model"),
        ({**SPARSE_GEMMA, "architectures": []}, "lacks"),
    ],
)
def test_what_is_no_config(tmp_path: Path, config: Any, message: str) -> None:
    with pytest.raises(LaunchError, match=message) as caught:
        read_config(write(tmp_path, config))
    assert "\n" not in str(caught.value)


def test_code_of_the_checkpoints_own_runs_only_if_trusted(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules = tmp_path_factory.mktemp("modules")
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(modules))
    monkeypatch.syspath_prepend(modules)
    (tmp_path / "mine.py").write_text(
        "from transformers import LlamaConfig\nclass Mine(LlamaConfig):\n    model_type = 'mine'\n"
    )
    write(tmp_path, {"architectures": ["X"], "model_type": "mine", "auto_map": {"AutoConfig": "mine.Mine"}})
    with pytest.raises(LaunchError, match="give --trust-remote-code if you trust it"):
        read_config(tmp_path)
    assert read_config(tmp_path, trust_remote_code=True).heads == 32
