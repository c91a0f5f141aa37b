"""Base and adapters, served: equal to transformers with the adapters merged by peft."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import yaml
from safetensors.torch import save_file
from transformers import AutoTokenizer, Gemma3ForCausalLM, Gemma3ForConditionalGeneration

from nla_launch.pair.shards import Part, wanted_files
from tests.adapters import merged_in_place, save_adapter, save_single_file
from tests.checkpoints import D_MODEL, LAYER, Family, cut, make_pair, write_sidecar
from tests.dialects import causal
from tests.plain import assert_rebuilt, texts_of, verbalize
from tests.reference import ReferenceReconstructor, ReferenceVerbalizer
from tests.stack import Stack, serving

MAX_TOKENS = 24
TEXTS = ("A short text.", "no full stop", "日本 and 'quotes' > all\nkinds", "", "word " * 60)
VECTORS = np.random.default_rng(11).standard_normal((12, D_MODEL)).astype(np.float32)
SPREAD = 0.08
"""Of factors of rank 128: what they add is as large as the weights, at the right scale."""
TRAINER: dict[str, Any] = {"r": 128, "lora_alpha": 16, "use_rslora": True}
"""EasyNLA's: at alpha / r, as SGLang's own --lora-paths takes it, 11 times too weak."""


@dataclass(frozen=True)
class Served:
    stack: Stack
    folder: Path


def finish(folder: Path, role: str, tokenizer: Any, family: Family) -> None:
    """Make a folder of weights a checkpoint, or one of factors an adapter that brings sidecar and tokenizer."""
    tokenizer.save_pretrained(folder)
    write_sidecar(folder, role, tokenizer, family)


def make_base(folder: Path, family: Family, **make: bool) -> tuple[Path, Any]:
    """Make a base model with its tokenizer, of which no sidecar speaks."""
    base = make_pair(folder, family, **make).av
    (base / "nla_meta.yaml").unlink()
    return base, AutoTokenizer.from_pretrained(base)


def first_blocks(model: Any) -> Any:
    return cut(model, LAYER + 1)


def new_head() -> torch.Tensor:
    return torch.randn(D_MODEL, D_MODEL) / D_MODEL**0.5


def easynla(folder: Path) -> list[str]:
    """A verbalizer's PEFT folder, a reconstructor's single file, both rsLoRA; written as a preset."""
    base, tokenizer = make_base(folder, "qwen3")
    targets = r".*\.(self_attn|mlp)\.(q|k|v|o|gate|up|down)_proj"
    merged = save_adapter(causal(base), folder / "av", spread=SPREAD, target_modules=targets, **TRAINER)
    merged.save_pretrained(folder / "merged-av")
    backbone, head = first_blocks(causal(base)), new_head()
    save_single_file(backbone, folder / "ar", head)
    plain = first_blocks(causal(base))
    plain.load_state_dict(merged_in_place(backbone))
    plain.save_pretrained(folder / "merged-ar")
    save_file({"weight": head}, folder / "merged-ar" / "value_head.safetensors")
    for role in ("av", "ar"):
        finish(folder / f"merged-{role}", role, tokenizer, "qwen3")
        finish(folder / role, role, tokenizer, "qwen3")
    reconstructor = {"source": str(folder / "ar" / "ar_lora_value_head.safetensors"), "use_rslora": True}
    preset = {
        "name": "own", "device": "cpu",
        "av": {"base": str(base), "adapters": [str(folder / "av")]},
        "ar": {"base": str(base), "adapters": [reconstructor]},
    }  # fmt: skip
    (folder / "own.yaml").write_text(yaml.safe_dump(preset))
    return ["--preset", str(folder / "own.yaml")]


def first_files(base: Path) -> Path:
    """Copy a base without those files that hold nothing of the first blocks."""
    copy, wanted = base.with_name("first-files"), wanted_files(base, Part(LAYER + 1))
    assert wanted is not None
    shutil.copytree(base, copy)
    later = [path for path in copy.glob("*.safetensors") if path.name not in wanted]
    assert later
    for path in later:
        path.unlink()
    return copy


def fused(folder: Path) -> list[str]:
    """Fused names, spread over two ranks, by flags; the tokenizer is the base's alone.

    Of the reconstructor's base no later files are there.
    """
    base, tokenizer = make_base(folder, "phi3", sharded=True)
    targets = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]
    for role, blocks in (("av", lambda model: model), ("ar", first_blocks)):
        merged = blocks(save_adapter(causal(base), folder / role, target_modules=targets, spread=0.1))
        merged.save_pretrained(folder / f"merged-{role}")
        finish(folder / f"merged-{role}", role, tokenizer, "phi3")
        write_sidecar(folder / role, role, tokenizer, "phi3")
    for name in ("ar", "merged-ar"):
        torch.manual_seed(5)
        save_file({"weight": new_head()}, folder / name / "value_head.safetensors")
    bases = (("av", base), ("ar", first_files(base)))
    given = [flag for role, one in bases for flag in (f"--{role}", str(one), f"--{role}-adapter", str(folder / role))]
    return [*given, "--tp", "2"]


def stacked(folder: Path) -> list[str]:
    """Two adapters each on a multimodal wrapper: on the whole of it, and on its text model alone."""
    base, tokenizer = make_base(folder, "gemma3", multimodal=True)
    whole = Gemma3ForConditionalGeneration.from_pretrained(base, dtype=torch.float32)
    text = Gemma3ForCausalLM(whole.config.text_config)
    text.model.load_state_dict(whole.model.language_model.state_dict())
    text.tie_weights()
    for role, model in (("av", whole), ("ar", text)):
        first = save_adapter(model, folder / f"{role}-1", target_modules=["q_proj", "up_proj"], spread=0.1)
        second = save_adapter(first, folder / f"{role}-2", target_modules=["q_proj", "o_proj"], spread=0.1)
        (second if role == "av" else first_blocks(second)).save_pretrained(folder / f"merged-{role}")
        finish(folder / f"merged-{role}", role, tokenizer, "gemma3")
        finish(folder / f"{role}-1", role, tokenizer, "gemma3")
    for name in ("ar-2", "merged-ar"):
        torch.manual_seed(5)
        save_file({"weight": new_head()}, folder / name / "value_head.safetensors")
    return [
        flag
        for role in ("av", "ar")
        for flag in (f"--{role}", base, *(f for n in "12" for f in (f"--{role}-adapter", folder / f"{role}-{n}")))
    ]


CASES: dict[str, Callable[[Path], list[Any]]] = {"easynla": easynla, "fused-tp2": fused, "stacked-wrapper": stacked}


@pytest.fixture(scope="module", params=CASES)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(3)
    flags = [str(flag) for flag in CASES[request.param](folder)]
    with serving(folder / "log", *flags, "--device", "cpu", "--dtype", "float32") as stack:
        yield Served(stack, folder)


def test_greedy_text_equals_peft(served: Served) -> None:
    reference = ReferenceVerbalizer(served.folder / "merged-av")
    clear = list(reference.clear(VECTORS, MAX_TOKENS))
    answer = verbalize(served.stack, np.stack([vector for vector, _ in clear]), max_tokens=MAX_TOKENS)
    assert texts_of(answer) == [reference.text(ids)[0] for _, ids in clear]
    assert len(clear) > 8
    assert len(set(texts_of(answer))) > 4


def test_reconstruction_equals_peft(served: Served) -> None:
    reference = ReferenceReconstructor(served.folder / "merged-ar")
    assert_rebuilt(served.stack, TEXTS, reference.vector)


def other_than_ours(folder: Path) -> ReferenceVerbalizer:
    """The base alone; or with EasyNLA's adapter at alpha / r, as SGLang itself would scale it."""
    other, merged = folder / "verbalizer", folder / "merged-av"
    if (folder / "own.yaml").is_file():
        config = peft.LoraConfig.from_pretrained(folder / "av")
        config.use_rslora = False  # type: ignore[attr-defined]
        weak = peft.PeftModel.from_pretrained(causal(other), folder / "av", config=config).merge_and_unload()
        other = folder / "weak"
        weak.save_pretrained(other)
    AutoTokenizer.from_pretrained(merged).save_pretrained(other)
    shutil.copy(merged / "nla_meta.yaml", other)
    return ReferenceVerbalizer(other)


def test_answers_are_not_the_base_s_nor_those_of_a_weak_scale(served: Served) -> None:
    other = other_than_ours(served.folder)
    texts = texts_of(verbalize(served.stack, VECTORS, max_tokens=MAX_TOKENS))
    others = [text for text, _ in other.texts(VECTORS, MAX_TOKENS)]
    assert sum(one == another for one, another in zip(texts, others, strict=True)) <= 2


def test_the_fingerprint_is_of_adapters_too(served: Served) -> None:
    info = served.stack.http.get("/v1/info").json()
    assert info["verbalizer"]["fingerprint"] != info["reconstructor"]["fingerprint"]
    assert info["layer"] == LAYER
