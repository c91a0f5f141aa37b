"""Adapters merged while loading equal peft's merge_and_unload, and what cannot be merged is refused by name."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from nla_engine.adapters import lora
from nla_engine.adapters.check import check
from nla_engine.adapters.files import INDEX, AdapterError
from nla_engine.adapters.merging import Merge, merging
from nla_engine.checkpoint import VARIABLE, Given
from tests.adapters import merged_in_place, save_adapter, save_single_file

SHAPE: dict[str, Any] = {
    "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 8, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]


def qwen() -> Any:
    return Qwen3ForCausalLM(Qwen3Config(**SHAPE, tie_word_embeddings=False))


def llama() -> Any:
    return LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=False))


def phi() -> Any:
    shape = {name: value for name, value in SHAPE.items() if name != "head_dim"}
    return Phi3ForCausalLM(Phi3Config(**shape, tie_word_embeddings=False))


def gemma() -> Any:
    vision = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1,
              "image_size": 28, "patch_size": 14}  # fmt: skip
    return Gemma3ForConditionalGeneration(Gemma3Config(text_config=SHAPE, vision_config=vision, mm_tokens_per_image=4))


CASES: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "list": (qwen, {"target_modules": [*ATTENTION, "up_proj", "gate_proj", "down_proj"]}),
    "attention-alone": (llama, {"target_modules": ATTENTION}),
    "regex": (llama, {"target_modules": r".*\.(self_attn|mlp)\.(q|k|v|o|gate|up|down)_proj"}),
    "all-linear": (qwen, {"target_modules": "all-linear"}),
    "lm-head": (qwen, {"target_modules": ["q_proj", "lm_head"]}),
    "rslora": (qwen, {"target_modules": ATTENTION, "use_rslora": True}),
    "patterns": (
        qwen,
        {
            "target_modules": [*ATTENTION, "down_proj"],
            "rank_pattern": {"q_proj": 3, r"model\.layers\.1\.mlp\.down_proj": 5},
            "alpha_pattern": {r"layers\.[01]\.self_attn\.k_proj": 1, "^model.layers.2.mlp.down_proj": 30},
        },
    ),
    "patterns-rslora": (
        qwen,
        {
            "target_modules": ATTENTION,
            "use_rslora": True,
            "rank_pattern": {"o_proj": 7},
            "alpha_pattern": {"q_proj": 3},
        },
    ),
    "some-blocks": (llama, {"target_modules": ATTENTION, "layers_to_transform": [0, 2], "layers_pattern": "layers"}),
    "some-blocks-without-pattern": (llama, {"target_modules": ATTENTION, "layers_to_transform": 1}),
    "excluded": (llama, {"target_modules": ATTENTION, "exclude_modules": ["model.layers.0.self_attn.q_proj"]}),
    "phi3-fused": (phi, {"target_modules": ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]}),
    "phi3-partly-other-names": (phi, {"target_modules": ["q_proj", "up_proj", "o_proj", "down_proj"]}),
    "gemma-wrapper": (gemma, {"target_modules": r".*language_model\..*\.(q|v|o|up)_proj"}),
    "gemma-wrapper-with-vision": (gemma, {"target_modules": ["q_proj", "v_proj"]}),
}


def stream_of(base: Any, folder: Path) -> list[tuple[str, torch.Tensor]]:
    base.save_pretrained(folder, max_shard_size="5KB")
    return [pair for path in sorted(folder.glob("*.safetensors")) for pair in load_file(path).items()]


def merge(
    weights: Iterable[tuple[str, torch.Tensor]], *adapters: Path | Given, blocks: int | None = None
) -> dict[str, torch.Tensor]:
    one = Merge([given if isinstance(given, Given) else Given(given) for given in adapters], blocks)
    found = dict(one.stream(weights))
    one.finish()
    return found


def assert_equal(found: dict[str, torch.Tensor], wanted: list[tuple[str, torch.Tensor]]) -> None:
    assert found.keys() == dict(wanted).keys()
    for name, value in wanted:
        assert torch.allclose(found[name], value, rtol=0, atol=1e-5), name


@pytest.mark.parametrize("case", CASES)
def test_equal_to_peft(case: str, tmp_path: Path) -> None:
    make, config = CASES[case]
    torch.manual_seed(0)
    base = make()
    before = stream_of(base, tmp_path / "base")
    wanted = stream_of(save_adapter(base, tmp_path / "adapter", **config), tmp_path / "merged")
    assert_equal(merge(before, tmp_path / "adapter"), wanted)
    assert any(not torch.equal(dict(before)[name], value) for name, value in wanted)
    check(tmp_path / "base", [Given(tmp_path / "adapter")], None, tied=False)


def test_stacked_adapters_equal_one_merge_after_the_other(tmp_path: Path) -> None:
    base = qwen()
    before = stream_of(base, tmp_path / "base")
    first = save_adapter(base, tmp_path / "first", target_modules=["q_proj", "v_proj"], use_rslora=True)
    second = save_adapter(first, tmp_path / "second", target_modules=["q_proj", "up_proj"], r=2)
    assert_equal(merge(before, tmp_path / "first", tmp_path / "second"), stream_of(second, tmp_path / "merged"))


def test_stacked_adapters_are_rounded_once(tmp_path: Path) -> None:
    weight = torch.ones(1, 1, dtype=torch.bfloat16)
    for name in ("first", "second"):
        plain_adapter(tmp_path / name, {"x": (torch.full((1, 1), 0.0025), torch.ones(1, 1))}, r=1, lora_alpha=1)
    (merged,) = merge([("model.layers.0.x.weight", weight)], tmp_path / "first", tmp_path / "second").values()
    # Each alone would be rounded away: bfloat16 has steps of 1 / 128 there.
    assert merged.to(torch.bfloat16).item() == 1 + 1 / 128


def test_a_text_model_s_adapter_fits_the_wrapper_s_weights(tmp_path: Path) -> None:
    """Adapters trained on the text model alone, and the spellings of older transformers."""
    base = gemma()
    before = stream_of(base, tmp_path / "base")
    config = {"target_modules": r".*language_model\..*\.(q|v|o|up)_proj"}
    wanted = stream_of(save_adapter(base, tmp_path / "adapter", **config), tmp_path / "merged")
    path = tmp_path / "adapter" / lora.WEIGHTS
    factors = {name.replace("language_model.", ""): value for name, value in load_file(path).items()}
    save_file(factors, path)
    edit(tmp_path / "adapter", target_modules=["q_proj", "v_proj", "o_proj", "up_proj"])
    assert_equal(merge(before, tmp_path / "adapter"), wanted)
    old = [(name.replace("model.language_model.", "language_model.model."), value) for name, value in before]
    assert len(merge(old, tmp_path / "adapter")) == len(wanted)


def test_a_reconstructor_s_save_single_file(tmp_path: Path) -> None:
    base = qwen()
    before = stream_of(base, tmp_path / "base")
    base.model.layers = base.model.layers[:2]
    save_single_file(base, tmp_path / "adapter", torch.eye(16))
    found = merge(before, Given(tmp_path / "adapter", use_rslora=True), blocks=2)
    assert_equal(found, list(merged_in_place(base).items()))
    again = merge(before, Given(tmp_path / "adapter" / lora.SINGLE, use_rslora=True), blocks=2)
    assert all(torch.equal(found[name], again[name]) for name in found)
    check(tmp_path / "base", [Given(tmp_path / "adapter", use_rslora=True)], 2, tied=False)


def test_a_single_file_s_scale_is_stated_never_guessed(tmp_path: Path) -> None:
    save_single_file(qwen(), tmp_path / "silent", torch.eye(16))
    with pytest.raises(AdapterError, match="use_rslora: true"):
        lora.factors_of([Given(tmp_path / "silent")])
    save_single_file(qwen(), tmp_path / "speaking", torch.eye(16), use_rslora=True)
    scales = {
        factor.scale for several in lora.factors_of([Given(tmp_path / "speaking")]).values() for factor in several
    }
    assert scales == {9 / 2}
    with pytest.raises(AdapterError, match="says use_rslora True, the preset False"):
        lora.factors_of([Given(tmp_path / "speaking", use_rslora=False)])


def test_an_adapter_around_a_whole_reconstructor(tmp_path: Path) -> None:
    """`base_model.model.backbone...`, as where peft wraps the module that holds backbone and head."""

    class Critic(nn.Module):
        def __init__(self, backbone: nn.Module) -> None:
            super().__init__()
            self.backbone = backbone

    base = qwen()
    before = stream_of(base, tmp_path / "base")
    wanted = save_adapter(Critic(base), tmp_path / "adapter", target_modules=["q_proj", "down_proj"]).backbone
    assert_equal(merge(before, tmp_path / "adapter"), stream_of(wanted, tmp_path / "merged"))


def test_factors_of_dropped_blocks_go_with_them_and_no_others(tmp_path: Path) -> None:
    base = qwen()
    before = stream_of(base, tmp_path / "base")
    save_adapter(base, tmp_path / "adapter", target_modules=["q_proj"])
    found = merge(before, tmp_path / "adapter", blocks=2)
    assert {lora.block_of(lora.stem(name)) for name in found} == {0, 1, None}
    with pytest.raises(AdapterError, match=r"no weight layers\.2\.self_attn\.q_proj\.weight, which it has factors for"):
        merge([(name, value) for name, value in before if ".layers.2." not in name], tmp_path / "adapter")


def test_of_first_blocks_what_is_in_none_may_be_in_a_file_that_is_not_read(tmp_path: Path) -> None:
    """As lm_head; that the base has it, and that the blocks have theirs, is asked as ever."""
    base, adapter, read = qwen(), [Given(tmp_path / "adapter")], "model-1.safetensors"
    save_adapter(base, tmp_path / "adapter", target_modules=["q_proj", "lm_head"])
    (tmp_path / "base").mkdir()
    weights = {name: value for name, value in base.state_dict().items() if "lm_head" not in name}
    save_file(weights, tmp_path / "base" / read)
    index = {**dict.fromkeys(weights, read), "lm_head.weight": "model-2.safetensors"}
    (tmp_path / "base" / INDEX).write_text(json.dumps({"weight_map": index}))
    check(tmp_path / "base", adapter, 2, [read], tied=False)
    merge(weights.items(), *adapter, blocks=2)
    later = [(name, value) for name, value in weights.items() if ".layers.0." not in name]
    with pytest.raises(AdapterError, match=r"the base has no weight layers\.0\.self_attn\.q_proj\.weight"):
        merge(later, *adapter, blocks=2)
    (tmp_path / "base" / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(weights, read)}))
    with pytest.raises(AdapterError, match=r"the base has no weight lm_head\.weight"):
        check(tmp_path / "base", adapter, 2, [read], tied=False)


def plain_adapter(folder: Path, modules: dict[str, tuple[torch.Tensor, torch.Tensor]], **config: Any) -> Path:
    """Write an adapter by hand: for each module of block 0 its A and B."""
    folder.mkdir()
    sides = {
        f"base_model.model.model.layers.0.{name}.lora_{side}.weight": value
        for name, both in modules.items()
        for side, value in zip("AB", both, strict=True)
    }
    save_file(sides, folder / lora.WEIGHTS)
    rules = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": list(modules), "bias": "none"}
    (folder / lora.CONFIG).write_text(json.dumps({**rules, **config}))
    return folder


def edit(folder: Path, **config: Any) -> None:
    path = folder / lora.CONFIG
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))


def more(folder: Path, name: str, value: torch.Tensor) -> None:
    save_file({**load_file(folder / lora.WEIGHTS), name: value}, folder / lora.WEIGHTS)


A = "base_model.model.model.layers.0.q_proj.lora_A.weight"
FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "dora": (lambda p: edit(p, use_dora=True), "`use_dora` is set, and DoRA also scales whole rows"),
    "dora's vector": (lambda p: more(p, A.replace("A.weight", "magnitude_vector"), torch.ones(4)), "DoRA"),
    "bias": (lambda p: edit(p, bias="all"), "`bias: all` changes biases"),
    "lora bias": (lambda p: edit(p, lora_bias=True), "`lora_bias` is set"),
    "bias in file": (lambda p: more(p, "base_model.model.model.layers.0.q_proj.bias", torch.ones(4)), "is no factor"),
    "modules to save": (lambda p: edit(p, modules_to_save=["lm_head"]), "`modules_to_save` is set"),
    "tokens": (lambda p: edit(p, trainable_token_indices=[1]), "`trainable_token_indices` is set"),
    "parameters": (lambda p: edit(p, target_parameters=["experts"]), "`target_parameters` is set"),
    "embedding": (
        lambda p: more(p, "base_model.model.model.embed_tokens.lora_embedding_A", torch.ones(2, 8)),
        "adapters of embeddings are not merged",
    ),
    "fan": (lambda p: edit(p, fan_in_fan_out=True), "`fan_in_fan_out` is set"),
    "a rule of tomorrow": (lambda p: edit(p, use_magic=True), "`use_magic: True` is a rule that nla-serve does not"),
    "other kind": (lambda p: edit(p, peft_type="IA3"), "an adapter of type IA3 is no LoRA"),
    "pissa": (lambda p: edit(p, init_lora_weights="pissa_niter_16"), "is relative to changed weights of the base"),
    "rank": (lambda p: edit(p, r=3), "are not of the rank 3 that its configuration says"),
    "pattern's rank": (lambda p: edit(p, rank_pattern={"q_proj": 8}), "are not of the rank 8"),
    "no rank": (lambda p: (p / lora.CONFIG).write_text('{"lora_alpha": 1}'), "lacks 'r'"),
    "no pattern": (lambda p: edit(p, target_modules="(q_proj"), "has a pattern that is no regular expression"),
    "no targets": (lambda p: edit(p, target_modules=None), "lacks target_modules"),
    "no config": (lambda p: (p / lora.CONFIG).unlink(), "has no adapter_config.json"),
    "no weights": (lambda p: (p / lora.WEIGHTS).unlink(), "must have either adapter_model.safetensors or"),
    "broken": (lambda p: (p / lora.WEIGHTS).write_bytes(b"junk"), "no file of safetensors"),
    "half": (lambda p: save_file({A: torch.ones(2, 8)}, p / lora.WEIGHTS), "has lora_A alone"),
    "not targeted": (lambda p: edit(p, target_modules=["k_proj"]), "target_modules leave out model.layers.0.q_proj"),
    "not targeted by regex": (lambda p: edit(p, target_modules="q_proj"), "target_modules leave out"),
    "two": (lambda p: more(p, A.replace("A.", "A.other."), torch.ones(2, 8)), "holds several adapters"),
    "other base": (lambda p: plain(p, torch.ones(2, 7), torch.ones(4, 2)), "is it an adapter of another base?"),
    "other module": (lambda p: rename(p, "q_proj", "z_proj"), "the base has no weight layers.0.z_proj.weight"),
    "nan": (lambda p: plain(p, torch.full((2, 8), torch.nan), torch.ones(4, 2)), "NaN or infinite"),
    "quantized": (lambda p: plain(p, torch.ones(2, 8).to(torch.int8), torch.ones(4, 2)), "are I8 and F32"),
}


def plain(folder: Path, a: torch.Tensor, b: torch.Tensor) -> None:
    save_file({A: a, A.replace("_A", "_B"): b}, folder / lora.WEIGHTS)


def rename(folder: Path, old: str, new: str) -> None:
    renamed = {name.replace(old, new): value for name, value in load_file(folder / lora.WEIGHTS).items()}
    save_file(renamed, folder / lora.WEIGHTS)
    edit(folder, target_modules=[new])


@pytest.mark.parametrize("fault", FAULTS)
def test_what_cannot_be_merged_is_refused_by_name(fault: str, tmp_path: Path) -> None:
    """By the engine, and before it starts."""
    weights = {"model.layers.0.q_proj.weight": torch.ones(4, 8)}
    (tmp_path / "base").mkdir()
    save_file(weights, tmp_path / "base" / "model.safetensors")
    folder = plain_adapter(tmp_path / "adapter", {"q_proj": (torch.ones(2, 8), torch.ones(4, 2))})
    merge(weights.items(), folder)
    break_it, message = FAULTS[fault]
    break_it(folder)
    for attempt in (
        lambda: merge(weights.items(), folder),
        lambda: check(tmp_path / "base", [Given(folder)], None, tied=False),
    ):
        with pytest.raises(AdapterError) as caught:
            attempt()
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


def test_quantized_bases_are_refused(tmp_path: Path) -> None:
    folder = plain_adapter(tmp_path / "adapter", {"q_proj": (torch.ones(2, 8), torch.ones(4, 2))})
    weights = {"model.layers.0.q_proj.weight": torch.ones(4, 8).to(torch.float8_e4m3fn)}
    (tmp_path / "base").mkdir()
    save_file(weights, tmp_path / "base" / "model.safetensors")
    with pytest.raises(AdapterError, match="nothing can be merged into quantized weights"):
        merge(weights.items(), folder)
    with pytest.raises(AdapterError, match="is F8_E4M3, and nothing can be merged"):
        check(tmp_path / "base", [Given(folder)], None, tied=False)


def test_a_tied_head_cannot_be_merged_into(tmp_path: Path) -> None:
    base = qwen()
    stream_of(base, tmp_path / "base")
    save_adapter(base, tmp_path / "adapter", target_modules=["lm_head"])
    with pytest.raises(AdapterError, match=r"the base has no weight lm_head\.weight"):
        check(tmp_path / "base", [Given(tmp_path / "adapter")], None, tied=True)


def test_two_weights_of_one_name_are_refused(tmp_path: Path) -> None:
    folder = plain_adapter(tmp_path / "adapter", {"q_proj": (torch.ones(2, 8), torch.ones(4, 2))})
    weight = torch.ones(4, 8)
    with pytest.raises(AdapterError, match="two weights"):
        merge([("model.layers.0.q_proj.weight", weight), ("language_model.layers.0.q_proj.weight", weight)], folder)


def test_the_engine_reads_its_adapters_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = plain_adapter(tmp_path / "adapter", {"q_proj": (torch.ones(2, 8), torch.ones(4, 2))})
    weights = [("model.layers.0.q_proj.weight", torch.zeros(4, 8)), ("model.layers.1.x.weight", torch.zeros(1))]
    checkpoint: dict[str, Any] = {"architecture": "LlamaForCausalLM"}
    monkeypatch.setenv(VARIABLE, json.dumps(checkpoint))
    with merging(weights) as unchanged:
        assert dict(unchanged) == dict(weights)
    adapters = [{"path": str(folder), "use_rslora": False}]
    monkeypatch.setenv(VARIABLE, json.dumps(checkpoint | {"adapters": adapters, "blocks": 1}))
    with merging(weights) as changed:
        found = dict(changed)
    assert list(found) == ["model.layers.0.q_proj.weight"]
    assert torch.equal(found["model.layers.0.q_proj.weight"], torch.full((4, 8), 4.0))


def test_weights_without_adapters_are_not_copied() -> None:
    weight = torch.ones(2, 2)
    assert merge([("model.layers.0.x.weight", weight)])["model.layers.0.x.weight"] is weight
