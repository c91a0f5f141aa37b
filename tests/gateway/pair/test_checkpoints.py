"""Sidecar and prompts against the live tokenizer: each fault has one clear line."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from nla_gateway.errors import CheckpointError, InvalidRequest
from nla_gateway.pair.prompt import ReconstructorPrompt, VerbalizerPrompt, load_tokenizer
from nla_gateway.pair.sidecar import read_sidecar
from tests.checkpoints import SPECIALS, Family, Pair, edit_sidecar, make_pair


@pytest.fixture(scope="module", params=sorted(SPECIALS))
def original(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    family: Family = request.param
    return make_pair(tmp_path_factory.mktemp(family), family)


@pytest.fixture
def pair(original: Pair, tmp_path: Path) -> Pair:
    return original.copy(tmp_path)


def load_both(pair: Pair) -> None:
    VerbalizerPrompt.load(pair.av, read_sidecar(pair.av))
    ReconstructorPrompt.load(pair.ar, read_sidecar(pair.ar))


def test_released_format_loads(pair: Pair) -> None:
    load_both(pair)
    assert read_sidecar(pair.av).mse_scale == 8.0


def test_older_spelling_loads(pair: Pair) -> None:
    for folder, role in ((pair.av, "actor"), (pair.ar, "critic")):
        sidecar = yaml.safe_load((folder / "nla_meta.yaml").read_text())
        templates = sidecar["prompt_templates"]
        changes = {"role": role, "prompt_templates": {"actor": templates["av"], "critic": templates["ar"]}}
        edit_sidecar(folder, changes)
    load_both(pair)
    assert (read_sidecar(pair.av).role, read_sidecar(pair.ar).role) == ("av", "ar")


@pytest.mark.parametrize(("value", "scale"), [("raw", None), (None, None), (30, 30.0), ("sqrt_d_model", 8.0)])
def test_injection_scale_forms(pair: Pair, value: Any, scale: float | None) -> None:
    edit_sidecar(pair.av, {"extraction.injection_scale": value})
    assert read_sidecar(pair.av).injection_scale == scale


def test_code_of_the_checkpoints_own_runs_only_if_trusted(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(tmp_path / "modules")
    (pair.av / "mine.py").write_text(
        "from transformers import PreTrainedTokenizerFast\nclass Mine(PreTrainedTokenizerFast):\n    ours = True\n"
    )
    path = pair.av / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {
        "tokenizer_class": "Mine", "auto_map": {"AutoTokenizer": [None, "mine.Mine"]}
    }))  # fmt: skip
    if pair.family == "llama":
        with pytest.raises(CheckpointError, match="give --trust-remote-code if you trust it") as caught:
            VerbalizerPrompt.load(pair.av, read_sidecar(pair.av))
        assert "\n" not in str(caught.value)
    else:  # transformers knows a tokenizer for this model type, and takes that instead
        assert not hasattr(load_tokenizer(pair.av, trust_remote_code=False), "ours")
    assert VerbalizerPrompt.load(pair.av, read_sidecar(pair.av), trust_remote_code=True).ids
    assert load_tokenizer(pair.av, trust_remote_code=True).ours


def test_unknown_schema_version_warns_and_goes_on(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    edit_sidecar(pair.av, {"schema_version": 3})
    read_sidecar(pair.av)
    assert "schema_version 3" in caplog.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"extraction.injection_scale": ...}, "injection_scale"),
        ({"extraction.injection_scale": -1}, "greater than 0"),
        ({"extraction.injection_scale": "big"}, "injection_scale"),
        ({"role": "judge"}, "role"),
        ({"d_model": "64"}, "d_model"),
        ({"tokens.injection_token_id": 5}, "encodes to"),
        ({"tokens.injection_left_neighbor_id": 5}, "beside the marker"),
        ({"prompt_templates.av": "{injection_char} twice {injection_char}"}, "must be once"),
        ({"prompt_templates.av": "no marker"}, "must be once"),
        ({"prompt_templates": {"ar": "x"}}, "prompt_templates has no `av`"),
    ],
)
def test_verbalizer_faults(pair: Pair, changes: dict[str, Any], message: str) -> None:
    edit_sidecar(pair.av, changes)
    with pytest.raises(CheckpointError) as caught:
        VerbalizerPrompt.load(pair.av, read_sidecar(pair.av))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_marker_in_the_text_of_the_template(pair: Pair) -> None:
    marker = SPECIALS[pair.family].marker
    edit_sidecar(pair.av, {"prompt_templates.av": f"{marker} <concept>{{injection_char}}</concept>"})
    with pytest.raises(CheckpointError, match="stands 2 times"):
        VerbalizerPrompt.load(pair.av, read_sidecar(pair.av))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens.critic_suffix_ids": [1, 2]}, "critic_suffix_ids"),
        ({"prompt_templates.ar": "{explanation} and {explanation}"}, "must be once"),
        ({"prompt_templates.ar": "<text>{explanation}</text>"}, "critic_suffix_ids"),
    ],
)
def test_reconstructor_faults(pair: Pair, changes: dict[str, Any], message: str) -> None:
    edit_sidecar(pair.ar, changes)
    with pytest.raises(CheckpointError) as caught:
        ReconstructorPrompt.load(pair.ar, read_sidecar(pair.ar))
    assert message in str(caught.value)


def test_a_lost_bos_is_noticed_by_nothing_but_special_tokens(pair: Pair) -> None:
    prompt = ReconstructorPrompt.load(pair.ar, read_sidecar(pair.ar))
    bos = prompt.tokenizer.bos_token_id
    assert prompt.encode("x").count(bos) == (1 if SPECIALS[pair.family].bos else 0)


def test_a_reconstructor_that_lost_its_bos(pair: Pair) -> None:
    path = pair.ar / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "post_processor": None}))
    if SPECIALS[pair.family].bos is None:
        ReconstructorPrompt.load(pair.ar, read_sidecar(pair.ar))
        return
    with pytest.raises(CheckpointError, match="adds no BOS"):
        ReconstructorPrompt.load(pair.ar, read_sidecar(pair.ar))


def with_bos_rendered(pair: Pair, times: int) -> None:
    path = pair.av / "chat_template.jinja"
    path.write_text(path.read_text().replace("{{ bos_token }}", "{{ bos_token }}" * times))


def test_a_chat_template_with_two_bos(pair: Pair) -> None:
    with_bos_rendered(pair, 2)
    if SPECIALS[pair.family].bos is None:
        VerbalizerPrompt.load(pair.av, read_sidecar(pair.av))
        return
    with pytest.raises(CheckpointError, match="more than one BOS"):
        VerbalizerPrompt.load(pair.av, read_sidecar(pair.av))


def test_a_chat_template_without_bos_is_warned_of(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    with_bos_rendered(pair, 0)
    VerbalizerPrompt.load(pair.av, read_sidecar(pair.av))
    assert ("renders no BOS" in caplog.text) == (SPECIALS[pair.family].bos is not None)


def test_every_special_token_can_be_trimmed(pair: Pair) -> None:
    prompt, special = VerbalizerPrompt.load(pair.av, read_sidecar(pair.av)), SPECIALS[pair.family]
    assert {special.end, *special.extra} <= set(prompt.stop_texts.values())


def test_a_text_of_megabytes_is_refused_before_it_is_tokenized(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = ReconstructorPrompt.load(pair.ar, read_sidecar(pair.ar))
    monkeypatch.setattr(ReconstructorPrompt, "encode", None)
    with pytest.raises(InvalidRequest, match="4000000 characters; at most 1000 tokens"):
        prompt.encode_checked("a" * 4_000_000, 1000, "texts")


def test_too_long_a_text_is_refused_not_cut(pair: Pair) -> None:
    prompt = ReconstructorPrompt.load(pair.ar, read_sidecar(pair.ar))
    with pytest.raises(InvalidRequest, match="at most 8 are taken") as caught:
        prompt.encode_checked("word " * 12, 8, "texts[2]")
    assert caught.value.param == "texts[2]"


def test_no_tokenizer_is_one_line(pair: Pair) -> None:
    for path in pair.av.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(CheckpointError, match="tokenizer") as caught:
        VerbalizerPrompt.load(pair.av, read_sidecar(pair.av))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["a: [", "just text", ""])
def test_sidecar_that_is_none(pair: Pair, content: str) -> None:
    (pair.av / "nla_meta.yaml").write_text(content)
    with pytest.raises(CheckpointError, match=r"nla_meta\.yaml") as caught:
        read_sidecar(pair.av)
    assert "\n" not in str(caught.value)


def test_no_sidecar(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no nla_meta\.yaml"):
        read_sidecar(tmp_path)
    with pytest.raises(CheckpointError, match="not a folder"):
        read_sidecar(tmp_path / "nowhere")
