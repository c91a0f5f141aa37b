"""Pairs in the form of other trainers, served by the presets of the page, answer as transformers does."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import peft
import pytest
from numpy.typing import NDArray
from transformers import AutoTokenizer

from tests.checkpoints import D_MODEL, LAYER, Pair, edit_sidecar, make_pair
from tests.dialects import DIALECTS, OPENED, causal, fill
from tests.launch.pair.test_describing import PRESETS
from tests.plain import assert_rebuilt, texts_of, verbalize
from tests.reference import AddingVerbalizer, ReferenceReconstructor, ReferenceVerbalizer
from tests.stack import serving

MAX_TOKENS = 24
TEXTS = ("A short text.", "no full stop", "日本 and 'quotes'", "")
VECTORS = np.random.default_rng(3).standard_normal((8, D_MODEL)).astype(np.float32)

Rebuild = Callable[[str], NDArray[np.float32]]


def easynla(released: Pair) -> tuple[ReferenceVerbalizer, Rebuild]:
    """Vectors are added; the reconstructor is as in the released form."""
    return AddingVerbalizer(released.av, 1), ReferenceReconstructor(released.ar).vector


def anicka(released: Pair) -> tuple[ReferenceVerbalizer, Rebuild]:
    """Adapters; the answer's opening tag is in the user's turn; the vector is block K's output at the last marker."""
    folder = released.av.parents[1] / "served"
    tokenizer = AutoTokenizer.from_pretrained(released.av)
    merged = {
        role: peft.PeftModel.from_pretrained(causal(folder / "base"), folder / f"anicka-{role}").merge_and_unload()
        for role in ("av", "ar")
    }
    merged["av"].save_pretrained(released.av)
    edit_sidecar(released.av, {"extraction.injection_scale": 150.0, "prompt_templates.av": OPENED})
    template = "Summary of the following text: <text>{}</text> <summary>"
    marker = ReferenceVerbalizer(released.av).sidecar["tokens"]["injection_char"]

    def rebuild(text: str) -> NDArray[np.float32]:
        ids = tokenizer(template.format(text) + marker, add_special_tokens=False, return_tensors="pt")["input_ids"]
        states = merged["ar"](ids, output_hidden_states=True).hidden_states
        rebuilt: NDArray[np.float32] = states[LAYER + 1][0, -1].detach().numpy()
        return rebuilt

    return ReferenceVerbalizer(released.av), rebuild


@pytest.mark.parametrize("name", ["easynla", "anicka"])
def test_a_dialect_equals_transformers(name: str, tmp_path: Path) -> None:
    served, released = tmp_path / "served", tmp_path / "released"
    for folder in (served, released):
        folder.mkdir()
    pair = make_pair(served, DIALECTS[name].family)
    copied = pair.copy(released)
    preset = fill(PRESETS[name], DIALECTS[name].make(pair), tmp_path / "own.yaml")
    verbalizer, rebuild = {"easynla": easynla, "anicka": anicka}[name](copied)
    clear = list(verbalizer.clear(VECTORS, MAX_TOKENS))
    with serving(tmp_path / "log", "--preset", str(preset), "--dtype", "float32") as stack:
        answer = verbalize(stack, np.stack([vector for vector, _ in clear]), max_tokens=MAX_TOKENS)
        assert_rebuilt(stack, TEXTS, rebuild)
    assert texts_of(answer) == [verbalizer.text(ids)[0] for _, ids in clear]
    assert len(clear) > 4
