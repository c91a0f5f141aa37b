"""Small NLA pairs with random weights, made in plain transformers in the released format."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import torch
import yaml
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3ImageProcessor,
    Gemma3TextConfig,
    Glm4Config,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    Phi3Config,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
    StableLmConfig,
)

Style = Literal["qwen2", "llama", "gemma3"]
Family = Style | Literal["qwen3", "qwen3_moe", "mistral", "phi3", "gemma2", "olmo2", "glm4", "granite", "stablelm"]

D_MODEL: Final = 64
LAYER: Final = 1
BLOCKS: Final = 3
SCALE: Final = 8.0
WINDOW: Final = 32
"""How far back every second block of a Gemma looks, so that sliding windows are in the test."""
AV_TEMPLATE: Final = (
    "Here is an activation vector of a language model, in the place of a word. Say in plain words what it stands for,"
    " inside <explanation> and </explanation> tags. The activation: <concept>{injection_char}</concept>"
)
AR_TEMPLATE: Final = "Summary of the following text: <text>{explanation}</text> <summary>"
PADDING: Final = "<pad>"
SPLIT: Final = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+"


@dataclass(frozen=True)
class Special:
    """What is particular to a family's tokenizer."""

    marker: str
    bos: str | None
    end: str
    extra: tuple[str, ...]
    chat_template: str
    named: dict[str, str] = field(default_factory=dict)
    """Special tokens that the multimodal processor asks for by these names."""


SPECIALS: Final[dict[Style, Special]] = {
    "qwen2": Special(
        marker="㈎",
        bos=None,
        end="<|im_end|>",
        extra=("<|im_start|>",),
        chat_template=(
            "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
            "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
        ),
    ),
    "llama": Special(
        marker="㎡",
        bos="<|begin_of_text|>",
        end="<|eot_id|>",
        extra=("<|start_header_id|>", "<|end_header_id|>"),
        chat_template=(
            "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
            "{{ m['content'] }}<|eot_id|>{% endfor %}"
            "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
        ),
    ),
    "gemma3": Special(
        marker="㈜",
        bos="<bos>",
        end="<end_of_turn>",
        extra=("<start_of_turn>",),
        named={"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"},
        chat_template=(
            "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ m['role'] }}\n{{ m['content'] }}<end_of_turn>\n"
            "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
        ),
    ),
}


@dataclass(frozen=True)
class Form:
    """What is particular to a family's models."""

    config: type[PreTrainedConfig]
    style: Style
    """Whose tokenizer it has."""
    more: dict[str, Any]
    head_dim: bool = True
    """Whether its config says how wide a head is."""
    spread: float = 0.15
    """Of the random weights: greedy texts differ from vector to vector, and attention still sees every token."""


GEMMA: Final = {"sliding_window": WINDOW, "query_pre_attn_scalar": 16, "tie_word_embeddings": True}
MOE: Final = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "norm_topk_prob": True}
GRANITE: Final = {
    "embedding_multiplier": 2.0,
    "residual_multiplier": 0.7,
    "attention_multiplier": 0.2,
    "logits_scaling": 2.0,
}
FORMS: Final[dict[Family, Form]] = {
    "gemma3": Form(Gemma3TextConfig, "gemma3", GEMMA, spread=0.1),
    "llama": Form(LlamaConfig, "llama", {"tie_word_embeddings": False}),
    "qwen2": Form(Qwen2Config, "qwen2", {"tie_word_embeddings": False}, head_dim=False),
    "qwen3": Form(Qwen3Config, "qwen2", {"tie_word_embeddings": True}),
    "qwen3_moe": Form(Qwen3MoeConfig, "qwen2", MOE),
    "mistral": Form(MistralConfig, "llama", {"sliding_window": None}),
    "phi3": Form(Phi3Config, "llama", {}, head_dim=False),
    "gemma2": Form(Gemma2Config, "gemma3", {**GEMMA, "attn_logit_softcapping": 2.0}, spread=0.1),
    "olmo2": Form(Olmo2Config, "qwen2", {}, head_dim=False),
    "glm4": Form(Glm4Config, "qwen2", {}),
    # Beyond the supported ones: they fit by inspection.
    "granite": Form(GraniteConfig, "qwen2", GRANITE, head_dim=False),
    "stablelm": Form(StableLmConfig, "qwen2", {}, head_dim=False),
}


@dataclass(frozen=True)
class Pair:
    """A verbalizer folder and a reconstructor folder."""

    av: Path
    ar: Path
    family: Family

    def copy(self, folder: Path) -> "Pair":
        """Copy both folders, so that a test can break one."""
        for source in (self.av, self.ar):
            shutil.copytree(source, folder / source.name)
        return Pair(folder / self.av.name, folder / self.ar.name, self.family)


def make_reconstructor(
    folder: Path, family: Family, tokenizer: Any, blocks: int, *, final_norm: bool = False, **size: Any
) -> None:
    """Make a reconstructor of so many blocks, without sidecar."""
    _causal(family, tokenizer, blocks).save_pretrained(folder, **size)
    _drop(folder, "lm_head.weight", *(() if final_norm else ("model.norm.weight",)))
    save_file({"weight": torch.randn(D_MODEL, D_MODEL) / D_MODEL**0.5}, folder / "value_head.safetensors")


def make_pair(
    folder: Path,
    family: Family,
    *,
    blocks: int = BLOCKS,
    sharded: bool = False,
    multimodal: bool = False,
    final_norm: bool = False,
) -> Pair:
    """Make a pair below a folder.

    Args:
        folder: where.
        family: of its models.
        blocks: the verbalizer's.
        sharded: weights in several files with an index.
        multimodal: the verbalizer in its family's wrapper.
        final_norm: the reconstructor's files keep the norm.
    """
    torch.manual_seed(list(FORMS).index(family))
    tokenizer = make_tokenizer(family)
    pair = Pair(folder / "verbalizer", folder / "reconstructor", family)
    size: dict[str, Any] = {"max_shard_size": "100KB"} if sharded else {}
    verbalizer = _multimodal(tokenizer) if multimodal else _causal(family, tokenizer, blocks)
    verbalizer.save_pretrained(pair.av, **size)
    if multimodal:
        Gemma3ImageProcessor(size={"height": 28, "width": 28}).save_pretrained(pair.av)
    make_reconstructor(pair.ar, family, tokenizer, LAYER + 1, final_norm=final_norm, **size)
    for path, role in ((pair.av, "av"), (pair.ar, "ar")):
        tokenizer.save_pretrained(path)
        write_sidecar(path, role, tokenizer, family)
    return pair


def make_tokenizer(family: Family) -> Any:
    """Train a byte-level tokenizer on the templates; the marker is one token that never merges."""
    special = SPECIALS[FORMS[family].style]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([AV_TEMPLATE, AR_TEMPLATE, "user\nassistant\nmodel\n"] * 40, trainer)
    tokenizer.add_tokens([AddedToken(special.marker, normalized=False)])
    names = [name for name in (special.bos, special.end, PADDING, *special.extra, *special.named.values()) if name]
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    if special.bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{special.bos} $A", special_tokens=[(special.bos, tokenizer.token_to_id(special.bos))]
        )
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=special.bos, eos_token=special.end, pad_token=PADDING,
        extra_special_tokens=list(special.extra), model_specific_special_tokens=special.named,
    )  # fmt: skip
    wrapped.chat_template = special.chat_template
    return wrapped


def cut(model: Any, blocks: int) -> Any:
    """Leave a model its first blocks."""
    model.model.layers = model.model.layers[:blocks]
    model.config.num_hidden_layers = blocks
    if getattr(model.config, "layer_types", None):
        model.config.layer_types = model.config.layer_types[:blocks]
    return model


def edit_head(folder: Path, change: Callable[[torch.Tensor], dict[str, torch.Tensor]]) -> None:
    """Write a reconstructor's value head anew, as other tensors."""
    path = folder / "value_head.safetensors"
    head = load_file(path)["weight"]
    path.unlink()
    save_file(change(head), path)


def edit_sidecar(folder: Path, changes: dict[str, Any]) -> None:
    """Change fields of a sidecar, named like `tokens.injection_token_id`; the value ... removes one."""
    path = folder / "nla_meta.yaml"
    sidecar = yaml.safe_load(path.read_text())
    for dotted, value in changes.items():
        *parents, last = dotted.split(".")
        section = sidecar
        for parent in parents:
            section = section[parent]
        if value is ...:
            del section[last]
        else:
            section[last] = value
    path.write_text(yaml.safe_dump(sidecar, allow_unicode=True))


def _config(family: Family, tokenizer: Any, blocks: int) -> PreTrainedConfig:
    form = FORMS[family]
    shape = {
        "vocab_size": len(tokenizer),
        "hidden_size": D_MODEL,
        "intermediate_size": 128,
        "num_hidden_layers": blocks,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "initializer_range": form.spread,
    }
    if form.head_dim:
        shape["head_dim"] = 16
    if form.style == "gemma3":
        shape["layer_types"] = ["full_attention" if i % 2 else "sliding_attention" for i in range(blocks)]
    return form.config(**shape, **form.more)


def _causal(family: Family, tokenizer: Any, blocks: int) -> Any:
    return _lively(AutoModelForCausalLM.from_config(_config(family, tokenizer, blocks)))


def _multimodal(tokenizer: Any) -> Any:
    text = _config("gemma3", tokenizer, BLOCKS)
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
              "image_size": 28, "patch_size": 14}  # fmt: skip
    config = Gemma3Config(
        text_config=text,
        vision_config=vision,
        mm_tokens_per_image=4,
        image_token_index=tokenizer.convert_tokens_to_ids("<image_soft_token>"),
        boi_token_index=tokenizer.convert_tokens_to_ids("<start_of_image>"),
        eoi_token_index=tokenizer.convert_tokens_to_ids("<end_of_image>"),
        eos_token_id=tokenizer.eos_token_id,
        initializer_range=FORMS["gemma3"].spread,
    )
    return _lively(Gemma3ForConditionalGeneration(config))


def _lively(model: Any) -> Any:
    """Move norm weights and biases off their defaults, so that one forgotten shows."""
    with torch.no_grad():
        if model.config.model_type.startswith("gemma"):
            # Tied to the head and scaled up, large embeddings would only repeat the last token.
            model.get_input_embeddings().weight.mul_(0.1)
        for name, value in model.named_parameters():
            if "norm" in name or name.endswith("bias"):
                value.add_(0.2 * torch.randn_like(value))
    return model.float().eval()


def _drop(folder: Path, *unwanted: str) -> None:
    """Take weights that a reconstructor has not out of the files, index included."""
    for path in folder.glob("*.safetensors"):
        kept = {name: value for name, value in load_file(path).items() if name not in unwanted}
        path.unlink()
        if kept:
            save_file(kept, path, {"format": "pt"})
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        content = json.loads(index.read_text())
        content["weight_map"] = {k: v for k, v in content["weight_map"].items() if k not in unwanted}
        index.write_text(json.dumps(content))


def write_sidecar(
    folder: Path, role: str, tokenizer: Any, family: Family, *, d_model: int = D_MODEL, layer: int = LAYER
) -> None:
    """Write the sidecar of a checkpoint, in the released format."""
    marker = SPECIALS[FORMS[family].style].marker
    ids = tokenizer.encode(f"<concept>{marker}</concept>", add_special_tokens=False)
    marker_id = tokenizer.convert_tokens_to_ids(marker)
    at = ids.index(marker_id)
    sidecar = {
        "schema_version": 2,
        "kind": "nla_model",
        "role": role,
        "d_model": d_model,
        "extraction_layer_index": layer,
        "extraction": {"injection_scale": SCALE, "mse_scale": "sqrt_d_model"},
        "tokens": {
            "injection_char": marker,
            "injection_token_id": marker_id,
            "injection_left_neighbor_id": ids[at - 1],
            "injection_right_neighbor_id": ids[at + 1],
            "critic_suffix_ids": tokenizer.encode("text> <summary>", add_special_tokens=False),
        },
        "prompt_templates": {"av": AV_TEMPLATE, "ar": AR_TEMPLATE},
    }
    (folder / "nla_meta.yaml").write_text(yaml.safe_dump(sidecar, allow_unicode=True))


def write_preset(path: Path, av: Path, *engine_args: str, **rules: Any) -> Path:
    """Write a preset of a verbalizer alone, on the CPU, with further SGLang arguments and rules of its use."""
    preset = {"name": path.stem, "av": str(av), "ar": None, "device": "cpu", "engine_args": {"av": list(engine_args)}}
    path.write_text(yaml.safe_dump(preset | rules))
    return path
