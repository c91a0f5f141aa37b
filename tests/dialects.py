"""Tiny pairs in the form of other people's trainers, made from what is known of those; see the page on own pairs."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
import yaml
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from tests.adapters import save_adapter, save_single_file
from tests.checkpoints import AR_TEMPLATE, AV_TEMPLATE, D_MODEL, LAYER, Family, Pair, edit_head, edit_sidecar, make_pair
from tests.reference import read

UNTAGGED: Final = "List what the vector stands for as bullet points, one per line: <concept>{injection_char}</concept>"
OPENED: Final = f"{AV_TEMPLATE}\n\nPlease provide an explanation.\n\n<explanation>"
"""A user's turn that ends with the opening tag, so that the answer has the closing one alone."""
PROJECTIONS: Final = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
RS: Final[dict[str, Any]] = {"r": 8, "lora_alpha": 2, "use_rslora": True}

Source = str | dict[str, Any]


@dataclass(frozen=True)
class Given:
    """What a preset names of a tiny pair: sources, and a head that is elsewhere."""

    av: Source
    ar: Source
    head: Path | None = None


def write(folder: Path, sidecar: dict[str, Any], name: str = "nla_meta.yaml") -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(yaml.safe_dump(sidecar, allow_unicode=True))


def of(pair: Pair) -> Given:
    return Given(str(pair.av), str(pair.ar))


def reference(pair: Pair) -> Given:
    """`write_model_sidecar` of the reference trainer: the layer with the critic alone, a scale left out."""
    for folder, role, other in ((pair.av, "actor", "critic"), (pair.ar, "critic", "actor")):
        templates = {"actor": AV_TEMPLATE, "critic": AR_TEMPLATE} | {other: None}
        changes: dict[str, Any] = {
            "role": role, "extraction_layer_index": ..., "extraction.mse_scale": ..., "prompt_templates": templates,
            "stage": "rl", "created_by": "trainer", "parent_checkpoints": [],
        }  # fmt: skip
        if role == "critic":
            changes["critic"] = {"extraction_layer_index": LAYER}
        edit_sidecar(folder, changes)
    return of(pair)


def first_schema(pair: Pair) -> Given:
    """Its first schema, and Nano-NLA's spelling: blocks instead of a layer, templates under both names."""
    reference(pair)
    templates = {"actor": AV_TEMPLATE, "av": AV_TEMPLATE, "critic": AR_TEMPLATE, "ar": AR_TEMPLATE}
    edit_sidecar(pair.av, {"schema_version": 1, "prompt_templates": templates})
    blocks = {"ar": {"num_hidden_layers": LAYER + 1}}
    edit_sidecar(pair.ar, {"schema_version": 1, "critic": None, "prompt_templates": templates} | blocks)
    return of(pair)


def unstopping(pair: Pair) -> Given:
    """No tags, and an end that was never learnt; no version, and the layer with `ar`."""
    reference(pair)
    edit_sidecar(pair.av, {"schema_version": ...})
    edit_sidecar(pair.ar, {"schema_version": ..., "critic": ..., "ar": {"extraction_layer_index": LAYER}})
    edit_sidecar(pair.av, {"prompt_templates.actor": UNTAGGED})
    return of(pair)


def corrupt_head(pair: Pair) -> Given:
    reference(pair)
    good = pair.ar.parent / "warm-start.safetensors"
    shutil.copy(pair.ar / "value_head.safetensors", good)
    edit_head(pair.ar, lambda head: {"weight": torch.full_like(head, float("nan"))})
    return Given(str(pair.av), str(pair.ar), good)


def biased_head(pair: Pair) -> Given:
    reference(pair)
    for folder, role in ((pair.av, "verbalizer"), (pair.ar, "reconstructor")):
        templates = {"verbalizer": AV_TEMPLATE, "reconstructor": AR_TEMPLATE}
        changes: dict[str, Any] = {"role": role, "prompt_templates": templates, "critic": None}
        section = {"reconstructor": {"extraction_layer_index": LAYER}} if role == "reconstructor" else {}
        edit_sidecar(folder, changes | section)
    edit_head(pair.ar, lambda head: {"weight": head, "bias": torch.randn(D_MODEL)})
    return of(pair)


def dataset(pair: Pair, stage: str) -> dict[str, Any]:
    """EasyNLA's sidecar of a dataset, which it copies beside the weights."""
    tokens = read(pair.av)["tokens"]
    if stage != "ar_sft":
        del tokens["critic_suffix_ids"]
    return {
        "schema_version": 1, "kind": "nla_dataset", "stage": stage, "row_count": 7, "dataset_id": "x",
        "extraction": {"base_model": "owner/base", "d_model": D_MODEL, "layer_index": LAYER, "norm": "none"},
        "tokens": tokens, "created_by": "stage3_build",
        "prompt_templates": {"actor": AV_TEMPLATE, "critic": AR_TEMPLATE if stage == "ar_sft" else None},
    }  # fmt: skip


def easynla(pair: Pair) -> Given:
    """Full weights."""
    for folder, stage in ((pair.av, "av_sft"), (pair.ar, "ar_sft")):
        write(folder, dataset(pair, stage))
    return of(pair)


def causal(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def base_of(pair: Pair) -> Path:
    """A base model with its tokenizer, of which no sidecar speaks."""
    base = pair.av.parent / "base"
    shutil.copytree(pair.av, base)
    (base / "nla_meta.yaml").unlink()
    return base


def easynla_adapters(pair: Pair) -> Given:
    """A verbalizer's adapter; a reconstructor's in one file with its head, the sidecar in the run's folder above."""
    base, run = base_of(pair), pair.av.parent / "run"
    run.mkdir()
    write(run, dataset(pair, "ar_sft"))
    save_adapter(causal(base), run / "step_400", target_modules=r".*\.(self_attn|mlp)\.\w+_proj", **RS)
    (run / "critic").mkdir()
    backbone = causal(base)
    backbone.model.layers = backbone.model.layers[: LAYER + 1]
    save_single_file(backbone, run / "critic" / "400", torch.eye(D_MODEL))
    single = {"source": str(run / "critic" / "400" / "ar_lora_value_head.safetensors"), "use_rslora": True}
    return Given({"base": str(base), "adapters": [str(run / "step_400")]}, {"base": str(base), "adapters": [single]})


def anicka(pair: Pair) -> Given:
    """No neighbours, no scale of scores; the vector is read at the marker that ends the template, without a head."""
    base, tokens = base_of(pair), read(pair.av)["tokens"]
    common = {
        "kind": "nla_model", "schema_version": 2, "d_model": D_MODEL, "extraction_layer_index": LAYER,
        "tokens": {key: tokens[key] for key in ("injection_char", "injection_token_id")},
    }  # fmt: skip
    av = common | {
        "role": "av", "stage": "sft", "extraction": {"injection_scale": 150.0},
        "prompt_templates": {"av": OPENED, "ar": AR_TEMPLATE},
        "training": {"method": "lora_sft", "injection_mode": "normalize", "chat_template": True},
    }  # fmt: skip
    ar = common | {
        "role": "ar", "stage": "sl", "extraction": {"injection_scale": None, "mse_scale": 8.0},
        "prompt_templates": {"ar": AR_TEMPLATE + "{injection_char}"},
    }  # fmt: skip
    for name, sidecar in (("anicka-av", av), ("anicka-ar", ar)):
        folder = pair.av.parent / name
        save_adapter(causal(base), folder, target_modules=PROJECTIONS, r=4, lora_alpha=16)
        write(folder, sidecar)
    adapters = [str(pair.av.parent / name) for name in ("anicka-av", "anicka-ar")]
    av_source, ar_source = ({"base": str(base), "adapters": [adapter]} for adapter in adapters)
    return Given(av_source, ar_source)


def alexwortega(pair: Pair) -> Given:
    """Adapters; a head that was a pickle and has been converted; a copy of the dataset's sidecar by its own name."""
    base = base_of(pair)
    for role, stage in (("av", "av_sft"), ("ar", "ar_sft")):
        folder = pair.av.parent / f"alexwortega-{role}"
        save_adapter(causal(base), folder, target_modules=PROJECTIONS, r=4, lora_alpha=8)
        write(folder, dataset(pair, stage), f"{stage}.parquet.nla_meta.yaml")
    save_file({"weight": torch.eye(D_MODEL)}, pair.av.parent / "alexwortega-ar" / "value_head.safetensors")
    av, ar = ({"base": str(base), "adapters": [str(pair.av.parent / f"alexwortega-{r}")]} for r in ("av", "ar"))
    return Given(av, ar)


@dataclass(frozen=True)
class Dialect:
    """One dialect that is served."""

    family: Family
    make: Callable[[Pair], Given]
    said: dict[str, Any]
    """What must be understood of it, by role and field: `av.verbalizer.tags`."""


NORM_MATCHED: Final = {"av.verbalizer.injection": {"rule": "add_after_block", "block": 1, "scale": None}}
REPLACED: Final = {"av.verbalizer.injection": {"rule": "replace", "block": None, "scale": 8.0}}

DIALECTS: Final[dict[str, Dialect]] = {
    "reference": Dialect("qwen2", reference, REPLACED | {"av.layer": LAYER, "ar.reconstructor.blocks": 2,
                                                        "ar.mse_scale": 8.0, "av.verbalizer.tags": "both"}),
    "nano-nla": Dialect("qwen2", first_schema, REPLACED | {"av.layer": LAYER, "ar.reconstructor.blocks": 2}),
    "untagged": Dialect("qwen2", reference, REPLACED | {"av.verbalizer.tags": "none"}),
    "unstopping": Dialect("qwen2", unstopping, REPLACED | {
        "av.verbalizer.tags": "none", "av.verbalizer.max_tokens": 120, "av.verbalizer.complete_at_limit": True}),
    "corrupt-head": Dialect("qwen2", corrupt_head, REPLACED),
    "biased-head": Dialect("qwen2", biased_head, REPLACED | {"ar.reconstructor.value_head.bias": "bias"}),
    "easynla": Dialect("qwen3", easynla, NORM_MATCHED | {"av.layer": LAYER, "ar.reconstructor.final_norm": False,
                                                        "ar.mse_scale": 8.0}),
    "easynla-adapters": Dialect("qwen3", easynla_adapters, NORM_MATCHED | {
        "ar.reconstructor.value_head.weight": "value_head.weight", "ar.reconstructor.final_norm": False,
        "ar.reconstructor.add_special_tokens": False}),
    "anicka": Dialect("qwen2", anicka, {
        "av.verbalizer.injection": {"rule": "replace", "block": None, "scale": 150.0}, "av.verbalizer.tags": "closing",
        "av.verbalizer.prompt": "chat", "ar.reconstructor.value_head": None, "ar.mse_scale": 8.0}),
    "alexwortega": Dialect("qwen3", alexwortega, REPLACED | {"ar.reconstructor.final_norm": False}),
}  # fmt: skip


def make(name: str, folder: Path) -> Given:
    """Make the tiny pair of a dialect."""
    dialect = DIALECTS[name]
    return dialect.make(make_pair(folder, dialect.family))


def fill(preset: dict[str, Any], given: Given, file: Path) -> Path:
    """Write a preset with a tiny pair's sources in the place of its own, which must be of the same form."""
    filled = preset | {"av": given.av, "ar": given.ar, "device": "cpu"}
    for role in ("av", "ar"):
        assert form(preset[role]) == form(filled[role]), role
    if given.head is not None:
        filled["reconstructor"]["value_head"]["file"] = str(given.head)
    file.write_text(yaml.safe_dump(filled, allow_unicode=True))
    return file


def form(source: Source) -> Any:
    if isinstance(source, str):
        return "whole"
    return [sorted(one) if isinstance(one, dict) else "adapter" for one in source["adapters"]]


def nested(values: dict[str, Any], dotted: str) -> Any:
    """Look a field up by its name with dots."""
    for key in dotted.split("."):
        values = values[key]
    return json.loads(json.dumps(values))
