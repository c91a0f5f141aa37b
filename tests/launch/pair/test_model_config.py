"""config.json, with and without what may be left out of it; and what the heads of weights say."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Gemma2Config, Gemma3TextConfig, LlamaConfig, PreTrainedConfig

from nla_launch.errors import LaunchError
from nla_launch.pair import model_config
from nla_launch.pair.model_config import ModelConfig, read_config, read_stored
from tests.checkpoints import make_pair

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


@pytest.mark.parametrize(("kind", "tied"), [(Gemma3TextConfig, True), (Gemma2Config, True), (LlamaConfig, False)])
def test_a_whole_config_that_says_nothing_of_ties(
    kind: type[PreTrainedConfig], tied: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gemma's output is its embeddings where nothing is said, Llama's is not."""
    monkeypatch.setattr(model_config, "_with_defaults", None)  # which asks transformers
    whole = kind(architectures=["X"]).to_dict()
    whole.pop("tie_word_embeddings", None)
    assert read_config(write(tmp_path, whole)).tied == tied
    assert not read_config(write(tmp_path, {**whole, "tie_word_embeddings": False})).tied


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


def counted(folder: Path) -> ModelConfig:
    """As for a plan, once all is there."""
    config = read_config(folder)
    return replace(config, stored=read_stored(folder, config.blocks))


def test_parameters_are_counted_in_files_where_they_are_there(tmp_path: Path) -> None:
    base = make_pair(tmp_path, "qwen3_moe").av
    config, model = counted(base), AutoModelForCausalLM.from_pretrained(base)
    blocks = sum(value.numel() for name, value in model.named_parameters() if ".layers." in name)
    assert config.block_parameters() == blocks
    assert config.embedding_parameters == model.get_input_embeddings().weight.numel()
    assert replace(config, blocks=1).block_parameters() == blocks // config.blocks
    # A dense model of this shape would have others.
    assert replace(config, stored=None).block_parameters() != blocks
    (base / "model.safetensors").unlink()
    assert counted(base).stored is None


def test_files_and_shape_agree_for_a_dense_model(tmp_path: Path) -> None:
    config = counted(make_pair(tmp_path, "llama", sharded=True).av)
    reckoned = replace(config, stored=None)
    assert config.stored is not None
    assert config.parameters == pytest.approx(reckoned.parameters, rel=0.02)
    assert config.block_parameters(2) == pytest.approx(reckoned.block_parameters(2), rel=0.02)


def test_a_wrapper_s_vision_tower_is_not_counted(tmp_path: Path) -> None:
    config = counted(make_pair(tmp_path, "gemma3", multimodal=True).av)
    assert config.parameters == pytest.approx(replace(config, stored=None).parameters, rel=0.03)


def test_quantized_weights_are_counted_as_they_are(tmp_path: Path) -> None:
    base = make_pair(tmp_path, "qwen2").av
    plain, path = counted(base), base / "model.safetensors"
    before = load_file(path)
    save_file(
        {n: v.to(torch.float8_e4m3fn) if v.dim() == 2 and ".layers." in n else v for n, v in before.items()}, path
    )
    config = counted(base)
    assert config.packed_bytes() + config.block_parameters() == plain.block_parameters()
    assert config.packed_bytes() > 0.9 * plain.block_parameters()


def test_a_broken_file_of_weights_is_named(tmp_path: Path) -> None:
    base = make_pair(tmp_path, "qwen2").av
    (base / "model.safetensors").write_bytes(b"junk")
    with pytest.raises(LaunchError, match="no file of safetensors"):
        read_stored(base, 3)


def test_half_a_download_is_nothing_yet(tmp_path: Path) -> None:
    base = make_pair(tmp_path, "qwen2", sharded=True).av
    assert read_stored(base, 3) is not None
    next(base.glob("*.safetensors")).unlink()
    assert read_stored(base, 3) is None


QWEN3_30B_A3B = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "head_dim": 128,
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "max_position_embeddings": 40960,
    "moe_intermediate_size": 768,
    "num_attention_heads": 32,
    "num_experts": 128,
    "num_hidden_layers": 48,
    "num_key_value_heads": 4,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "vocab_size": 151936,
}


def test_experts_count(tmp_path: Path) -> None:
    config = read_config(write(tmp_path, QWEN3_30B_A3B))
    assert config.parameters == pytest.approx(30_532_122_624, rel=1e-3)
    # All but the attention's keys and values and the router are shared out evenly.
    assert config.block_parameters(8) == pytest.approx(config.block_parameters() / 8, rel=0.01)
    assert config.takes_tp(4)
    assert not config.takes_tp(3)


@pytest.mark.parametrize(
    ("changes", "most"),
    [
        ({"sliding_window": None}, 40960),
        ({"sliding_window": 1000}, 1000),
        ({"sliding_window": 1000, "use_sliding_window": False}, 40960),
        ({"sliding_window": 1000, "architectures": ["Gemma2ForCausalLM"]}, 40960),
    ],
)
def test_windows_that_sglang_leaves_out_bound_the_context(tmp_path: Path, changes: dict[str, Any], most: int) -> None:
    assert read_config(write(tmp_path, QWEN3_30B_A3B | changes)).max_positions == most
