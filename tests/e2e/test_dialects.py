"""Pairs in the form of other trainers, served by the presets of the page, answer as transformers does."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
from numpy.typing import NDArray
from safetensors.torch import load_file
from transformers import AutoTokenizer

from nla_engine.adapters import lora
from tests.adapters import inject_single, merged_in_place
from tests.checkpoints import D_MODEL, LAYER, Pair, cut, edit_head, edit_sidecar, make_pair
from tests.dialects import DIALECTS, OPENED, UNTAGGED, causal, fill
from tests.launch.pair.test_describing import PRESETS
from tests.plain import assert_rebuilt, texts_of, verbalize
from tests.reference import AddingVerbalizer, ReferenceReconstructor, ReferenceVerbalizer, read
from tests.stack import serving

MAX_TOKENS = 24
TEXTS = ("A short text.", "no full stop", "日本 and 'quotes'", "")
VECTORS = np.random.default_rng(3).standard_normal((8, D_MODEL)).astype(np.float32)

Rebuild = Callable[[str], NDArray[np.float32]]


Reference = tuple[ReferenceVerbalizer, Rebuild]


def as_released(released: Pair) -> Reference:
    """The weights are those of the released form, whatever the sidecars look like."""
    return ReferenceVerbalizer(released.av), ReferenceReconstructor(released.ar).vector


def unstopping(released: Pair) -> Reference:
    """Another template."""
    edit_sidecar(released.av, {"prompt_templates.av": UNTAGGED})
    return as_released(released)


def biased_head(released: Pair) -> Reference:
    """What was drawn for the served pair is added."""
    bias = load_file(served_beside(released) / released.ar.name / "value_head.safetensors")["bias"].numpy()
    verbalizer, rebuild = as_released(released)
    return verbalizer, lambda text: rebuild(text) + bias


def easynla(released: Pair) -> Reference:
    """Vectors are added; the reconstructor is as in the released form."""
    return AddingVerbalizer(released.av, 1), ReferenceReconstructor(released.ar).vector


def easynla_adapters(released: Pair) -> Reference:
    """The same, of a base with adapters; the reconstructor's are put in by hand, as its trainer does."""
    folder = served_beside(released)
    merged(folder, "run/step_400").save_pretrained(released.av)
    tensors = load_file(folder / "run/critic/400" / lora.SINGLE)
    backbone, plain = (cut(causal(folder / "base"), LAYER + 1) for _ in range(2))
    inject_single(backbone)
    factors = {name.removeprefix("backbone."): value for name, value in tensors.items() if "lora_" in name}
    assert not backbone.load_state_dict(factors, strict=False).unexpected_keys
    plain.load_state_dict(merged_in_place(backbone))
    plain.save_pretrained(released.ar)
    edit_head(released.ar, lambda _: {"weight": tensors["value_head.weight"]})
    return easynla(released)


def anicka(released: Pair) -> Reference:
    """Adapters; the answer's opening tag is in the user's turn; the vector is block K's output at the last marker."""
    folder = served_beside(released)
    merged(folder, "anicka-av").save_pretrained(released.av)
    edit_sidecar(released.av, {"extraction.injection_scale": 150.0, "prompt_templates.av": OPENED})
    marker = ReferenceVerbalizer(released.av).sidecar["tokens"]["injection_char"]
    template = "Summary of the following text: <text>{}</text> <summary>" + marker
    return ReferenceVerbalizer(released.av), last_of_block(merged(folder, "anicka-ar"), released, template)


def alexwortega(released: Pair) -> Reference:
    """Adapters; vectors at norm sqrt(d); the vector is block K's output, for its head changes nothing."""
    folder = served_beside(released)
    merged(folder, "alexwortega-av").save_pretrained(released.av)
    edit_sidecar(released.av, {"extraction.injection_scale": D_MODEL**0.5})
    template = read(released.ar)["prompt_templates"]["ar"].replace("{explanation}", "{}")
    return ReferenceVerbalizer(released.av), last_of_block(merged(folder, "alexwortega-ar"), released, template)


def served_beside(released: Pair) -> Path:
    return released.av.parents[1] / "served"


def merged(folder: Path, adapter: str) -> Any:
    return peft.PeftModel.from_pretrained(causal(folder / "base"), folder / adapter).merge_and_unload()


def last_of_block(model: Any, released: Pair, template: str) -> Rebuild:
    tokenizer = AutoTokenizer.from_pretrained(released.av)

    def rebuild(text: str) -> NDArray[np.float32]:
        ids = tokenizer(template.format(text), add_special_tokens=False, return_tensors="pt")["input_ids"]
        states = model(ids, output_hidden_states=True).hidden_states
        rebuilt: NDArray[np.float32] = states[LAYER + 1][0, -1].detach().numpy()
        return rebuilt

    return rebuild


REFERENCES: dict[str, Callable[[Pair], Reference]] = {
    "reference": as_released,
    "nano-nla": as_released,
    "untagged": as_released,
    "unstopping": unstopping,
    "corrupt-head": as_released,
    "biased-head": biased_head,
    "easynla": easynla,
    "easynla-adapters": easynla_adapters,
    "anicka": anicka,
    "alexwortega": alexwortega,
}


@pytest.mark.parametrize("name", DIALECTS)
def test_a_dialect_equals_transformers(name: str, tmp_path: Path) -> None:
    served, released = tmp_path / "served", tmp_path / "released"
    for folder in (served, released):
        folder.mkdir()
    pair = make_pair(served, DIALECTS[name].family)
    copied = pair.copy(released)
    preset = fill(PRESETS[name], DIALECTS[name].make(pair), tmp_path / "own.yaml")
    verbalizer, rebuild = REFERENCES[name](copied)
    clear = list(verbalizer.clear(VECTORS, MAX_TOKENS))
    with serving(tmp_path / "log", "--preset", str(preset), "--dtype", "float32") as stack:
        answer = verbalize(stack, np.stack([vector for vector, _ in clear]), max_tokens=MAX_TOKENS)
        assert_rebuilt(stack, TEXTS, rebuild)
    assert texts_of(answer) == [verbalizer.text(ids)[0] for _, ids in clear]
    assert len(clear) > 4
