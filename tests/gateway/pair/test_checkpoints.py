"""Sidecar and prompts against the live tokenizer: each fault has one clear line."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from nla_gateway.description import check_pair
from nla_gateway.errors import CheckpointError, InvalidRequest
from nla_gateway.pair.parsing import THINK, THOUGHTS, Form, Thought
from nla_gateway.pair.prompt import ReconstructorPrompt, VerbalizerPrompt, load_tokenizer
from nla_gateway.roles import Role
from nla_launch.pair.rules import Rules
from tests.checkpoints import AR_TEMPLATE, AV_TEMPLATE, LAYER, SPECIALS, Family, Pair, edit_sidecar, make_pair
from tests.descriptions import described
from tests.dialects import reference


@pytest.fixture(scope="module", params=sorted(SPECIALS))
def original(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    family: Family = request.param
    return make_pair(tmp_path_factory.mktemp(family), family)


@pytest.fixture
def pair(original: Pair, tmp_path: Path) -> Pair:
    return original.copy(tmp_path)


def load_both(pair: Pair) -> None:
    VerbalizerPrompt.load(pair.av, described(Role.AV, pair.av))
    ReconstructorPrompt.load(pair.ar, described(Role.AR, pair.ar))


def test_released_format_loads(pair: Pair) -> None:
    load_both(pair)
    assert described(Role.AV, pair.av).mse_scale == 8.0


def test_older_spelling_loads(pair: Pair) -> None:
    for folder, role in ((pair.av, "actor"), (pair.ar, "critic")):
        sidecar = yaml.safe_load((folder / "nla_meta.yaml").read_text())
        templates = sidecar["prompt_templates"]
        changes = {"role": role, "prompt_templates": {"actor": templates["av"], "critic": templates["ar"]}}
        edit_sidecar(folder, changes)
    load_both(pair)
    assert (described(Role.AV, pair.av).role, described(Role.AR, pair.ar).role) == ("av", "ar")


def test_sidecars_of_the_public_trainer_load(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    reference(pair)
    load_both(pair)
    av, ar = described(Role.AV, pair.av), described(Role.AR, pair.ar)
    assert (av.role, av.layer, av.mse_scale) == ("av", None, 8.0)
    assert (ar.role, ar.layer) == ("ar", LAYER)
    check_pair({Role.AV: av, Role.AR: ar})
    assert caplog.text == ""


def test_braces_are_doubled_as_for_str_format(pair: Pair) -> None:
    prompts = []
    for extra in ("", ' as JSON, {{"text": "..."}}'):
        changed = yaml.safe_load((pair.av / "nla_meta.yaml").read_text())["prompt_templates"]["av"] + extra
        edit_sidecar(pair.av, {"prompt_templates.av": changed})
        prompts.append(VerbalizerPrompt.load(pair.av, described(Role.AV, pair.av)).ids)
    added = load_tokenizer(pair.av, trust_remote_code=False).decode(prompts[1])
    assert '{"text": "..."}' in added
    assert "{{" not in added


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{injection_char} at {depth_pct}%", "{depth_pct}, which nla-serve cannot fill"),
        ("{injection_char!r}", "{injection_char!r}, which"),
        ("{injection_char:>9}", "{injection_char:>9}, which"),
        ("{injection_char.real}", "{injection_char.real}, which"),
        ('{injection_char} {"text": 1}', "which nla-serve cannot fill"),
        ("{injection_char} {", "is not one of str.format"),
        ("{injection_char} }", "is not one of str.format"),
        ("{injection_char} {}", "{}, which nla-serve cannot fill"),
    ],
)
def test_templates_that_cannot_be_filled(pair: Pair, text: str, message: str) -> None:
    edit_sidecar(pair.av, {"prompt_templates.av": text})
    with pytest.raises(CheckpointError) as caught:
        VerbalizerPrompt.load(pair.av, described(Role.AV, pair.av))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("value", "scale"),
    [("raw", None), ("none", None), (None, None), (30, 30.0), ("sqrt_d_model", 8.0), ("8e4", 80000.0), ("150", 150.0)],
)
def test_injection_scale_forms(pair: Pair, value: Any, scale: float | None) -> None:
    edit_sidecar(pair.av, {"extraction.injection_scale": value})
    assert described(Role.AV, pair.av).injection_scale == scale


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
            VerbalizerPrompt.load(pair.av, described(Role.AV, pair.av))
        assert "\n" not in str(caught.value)
    else:  # transformers knows a tokenizer for this model type, and takes that instead
        assert not hasattr(load_tokenizer(pair.av, trust_remote_code=False), "ours")
    assert VerbalizerPrompt.load(pair.av, described(Role.AV, pair.av), trust_remote_code=True).ids
    assert load_tokenizer(pair.av, trust_remote_code=True).ours


def test_unknown_schema_version_warns_and_goes_on(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    edit_sidecar(pair.av, {"schema_version": 3})
    described(Role.AV, pair.av)
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
        ({"prompt_templates": {"av": None, "ar": "x"}}, "prompt_templates has no `av`"),
        ({"prompt_templates.actor": "{injection_char}"}, "two different ones for `av`"),
        (
            {"critic": {"extraction_layer_index": 7}},
            "the layer differs: `extraction_layer_index` is 1 and `critic.extraction_layer_index` is 7",
        ),
        ({"extraction.norm": "whitened_zca"}, "prepared by 'whitened_zca', which nla-serve does not know"),
        ({"extraction.injection_mode": "norm_matched_add"}, "`injection_mode: norm_matched_add` is a way of injection"),
        ({"injection": {"rule": "add_after_block", "block": 1}}, "is a way of injection that nla-serve does not know"),
        ({"tokens.injection_layer": 1}, "`injection_layer: 1` is a way of injection"),
        ({"actor": {"injection_mode": "add"}}, "`injection_mode: add` is a way of injection"),
        ({"training": {"stages": [{"inject": {"at": 3}}]}}, "is a way of injection that nla-serve does not know"),
        ({"extraction.whitening": "zca.pt"}, "prepared by `whitening`, which nla-serve does not know"),
        ({"extraction.mean": [0.5]}, "prepared by `mean`, which nla-serve does not know"),
        ({"critic": {"whiten": True}}, "prepared by `whiten`, which nla-serve does not know"),
    ],
)
def test_verbalizer_faults(pair: Pair, changes: dict[str, Any], message: str) -> None:
    edit_sidecar(pair.av, changes)
    with pytest.raises(CheckpointError) as caught:
        VerbalizerPrompt.load(pair.av, described(Role.AV, pair.av))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_marker_in_the_text_of_the_template(pair: Pair) -> None:
    marker = SPECIALS[pair.family].marker
    edit_sidecar(pair.av, {"prompt_templates.av": f"{marker} <concept>{{injection_char}}</concept>"})
    with pytest.raises(CheckpointError, match="stands 2 times"):
        VerbalizerPrompt.load(pair.av, described(Role.AV, pair.av))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens.critic_suffix_ids": [1, 2]}, "critic_suffix_ids"),
        ({"extraction_layer_index": ...}, "no `extraction_layer_index`, which a reconstructor needs"),
        ({"prompt_templates.ar": "{explanation} and {explanation}"}, "must be once"),
        ({"prompt_templates.ar": "<text>{explanation}</text>"}, "critic_suffix_ids"),
    ],
)
def test_reconstructor_faults(pair: Pair, changes: dict[str, Any], message: str) -> None:
    edit_sidecar(pair.ar, changes)
    with pytest.raises(CheckpointError) as caught:
        ReconstructorPrompt.load(pair.ar, described(Role.AR, pair.ar))
    assert message in str(caught.value)


def test_a_lost_bos_is_noticed_by_nothing_but_special_tokens(pair: Pair) -> None:
    prompt = ReconstructorPrompt.load(pair.ar, described(Role.AR, pair.ar))
    bos = prompt.tokenizer.bos_token_id
    assert prompt.encode("x").count(bos) == (1 if SPECIALS[pair.family].bos else 0)


def test_a_reconstructor_that_lost_its_bos(pair: Pair) -> None:
    path = pair.ar / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "post_processor": None}))
    if SPECIALS[pair.family].bos is None:
        ReconstructorPrompt.load(pair.ar, described(Role.AR, pair.ar))
        return
    with pytest.raises(CheckpointError, match="adds no BOS"):
        ReconstructorPrompt.load(pair.ar, described(Role.AR, pair.ar))


def with_bos_rendered(pair: Pair, times: int) -> None:
    path = pair.av / "chat_template.jinja"
    path.write_text(path.read_text().replace("{{ bos_token }}", "{{ bos_token }}" * times))


def test_a_chat_template_with_two_bos(pair: Pair) -> None:
    with_bos_rendered(pair, 2)
    if SPECIALS[pair.family].bos is None:
        VerbalizerPrompt.load(pair.av, described(Role.AV, pair.av))
        return
    with pytest.raises(CheckpointError, match="more than one BOS"):
        VerbalizerPrompt.load(pair.av, described(Role.AV, pair.av))


def begin_turns_with_bos(folder: Path, family: Family) -> None:
    """As SmolLM2 has it: Llama's architecture, and a BOS that is also what begins each message."""
    end = SPECIALS[family].end
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ bos_token }}{{ m['role'] }}\n{{ m['content'] }}" + end + "\n{% endfor %}"
        "{% if add_generation_prompt %}{{ bos_token }}assistant\n{% endif %}"
    )
    path = folder / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "post_processor": None}))


def test_a_bos_that_begins_every_message_is_no_fault(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    for folder in (pair.av, pair.ar):
        begin_turns_with_bos(folder, pair.family)
    load_both(pair)
    assert "BOS" not in caplog.text


def test_what_answers_look_like_is_read_from_the_prompt(pair: Pair) -> None:
    assert VerbalizerPrompt.load(pair.av, described(Role.AV, pair.av)).form == Form(tags="both")
    edit_sidecar(pair.av, {"prompt_templates.av": "One item a line: <concept>{injection_char}</concept>"})
    end_the_chat_with(pair.av, "<think>\n")
    assert VerbalizerPrompt.load(pair.av, described(Role.AV, pair.av)).form == Form(tags="none", thinks=THINK)


def end_the_chat_with(folder: Path, text: str) -> None:
    path = folder / "chat_template.jinja"
    path.write_text(path.read_text().replace("{% endif %}", f"{text}{{% endif %}}"))


@pytest.mark.parametrize("thought", THOUGHTS[:3], ids=lambda thought: thought.opening)
def test_answers_may_think_where_their_tokenizer_knows_the_tags(pair: Pair, thought: Thought) -> None:
    """Unless the prompt has closed a think block of the answer's own; what its system message says is no such."""
    tokenizer = load_tokenizer(pair.av, trust_remote_code=False)
    tokenizer.add_tokens([thought.opening, thought.closing], special_tokens=True)
    tokenizer.save_pretrained(pair.av)

    def form(rules: Rules | None = None) -> Form:
        return VerbalizerPrompt.load(pair.av, described(Role.AV, pair.av, rules or stated())).form

    assert form() == Form(may_think=thought)
    assert form(stated(append="<explanation>")) == Form(tags="closing")
    path, loop = pair.av / "chat_template.jinja", "{% for m in messages %}"
    path.write_text(path.read_text().replace(loop, f"{thought.opening}a plan{thought.closing}{loop}"))
    told = path.read_text()
    assert thought.closing in told
    assert form() == Form(may_think=thought)
    end_the_chat_with(pair.av, f"{thought.opening}\n")
    assert form() == Form(thinks=thought)
    path.write_text(told)
    end_the_chat_with(pair.av, f"{thought.opening}\n\n{thought.closing}\n\n")
    assert form() == Form()


def stated(**rules: Any) -> Rules:
    return Rules.model_validate({"verbalizer": rules})


def test_a_plain_prompt_has_the_tokenizer_s_own_specials(pair: Pair) -> None:
    special = SPECIALS[pair.family]
    prompt = VerbalizerPrompt.load(pair.av, described(Role.AV, pair.av, stated(prompt="plain", append=" It is")))
    tokenizer = load_tokenizer(pair.av, trust_remote_code=False)
    text = tokenizer.decode(prompt.ids)
    assert text.startswith(f"{special.bos or ''}Here is an activation vector")
    assert text.endswith("</concept> It is")
    assert special.bos is None or prompt.ids.count(tokenizer.bos_token_id) == 1
    edit_sidecar(pair.av, {"prompt_templates.av": f"{special.bos or ''}{AV_TEMPLATE}"})
    if special.bos is not None:
        with pytest.raises(CheckpointError, match="more than one BOS"):
            VerbalizerPrompt.load(pair.av, described(Role.AV, pair.av, stated(prompt="plain")))


def test_text_is_appended_to_the_turn_or_behind_the_prompt(pair: Pair) -> None:
    tokenizer = load_tokenizer(pair.av, trust_remote_code=False)
    plain = tokenizer.decode(VerbalizerPrompt.load(pair.av, described(Role.AV, pair.av)).ids)
    for place, rendered in (
        ("append_to_turn", plain.replace("</concept>", "</concept>\n{x} <explanation>")),
        ("append", f"{plain}\n{{x}} <explanation>"),
    ):
        description = described(Role.AV, pair.av, stated(**{place: "\n{x} <explanation>"}))
        prompt = VerbalizerPrompt.load(pair.av, description)
        assert (tokenizer.decode(prompt.ids), prompt.form) == (rendered, Form(tags="closing"))


@pytest.mark.parametrize(("given", "shown"), [(None, "auto"), (True, "on"), (False, "off")])
def test_thinking_is_the_chat_template_s(pair: Pair, given: bool | None, shown: str) -> None:
    rules = stated() if given is None else stated(enable_thinking=given)
    if given is not None:
        with pytest.raises(CheckpointError, match="knows no enable_thinking: take it out of the preset"):
            VerbalizerPrompt.load(pair.av, described(Role.AV, pair.av, rules))
    path = pair.av / "chat_template.jinja"
    told = "{{ 'auto' if enable_thinking is not defined else 'on' if enable_thinking else 'off' }}"
    path.write_text(path.read_text() + told)
    prompt = VerbalizerPrompt.load(pair.av, described(Role.AV, pair.av, rules))
    assert load_tokenizer(pair.av, trust_remote_code=False).decode(prompt.ids).endswith(shown)


def test_special_tokens_of_a_reconstructor_are_stated_where_they_matter(pair: Pair) -> None:
    edit_sidecar(pair.ar, {"tokens.injection_left_neighbor_id": ..., "tokens.injection_right_neighbor_id": ...})
    if SPECIALS[pair.family].bos is None:
        ReconstructorPrompt.load(pair.ar, described(Role.AR, pair.ar))
        return
    with pytest.raises(CheckpointError, match=re.escape("`reconstructor: {add_special_tokens: false}` or `true`")):
        ReconstructorPrompt.load(pair.ar, described(Role.AR, pair.ar))
    for given in (True, False):
        rules = Rules.model_validate({"reconstructor": {"add_special_tokens": given}})
        prompt = ReconstructorPrompt.load(pair.ar, described(Role.AR, pair.ar, rules))
        assert (prompt.encode("x")[0] == prompt.tokenizer.bos_token_id) is given


@pytest.mark.parametrize("missing", ["injection_left_neighbor_id", "injection_right_neighbor_id"])
def test_neighbours_that_nobody_states_are_not_compared(pair: Pair, missing: str) -> None:
    edit_sidecar(pair.av, {f"tokens.{missing}": ...})
    VerbalizerPrompt.load(pair.av, described(Role.AV, pair.av))
    edit_sidecar(pair.av, {f"tokens.{missing}": 5})
    with pytest.raises(CheckpointError, match="beside the marker"):
        VerbalizerPrompt.load(pair.av, described(Role.AV, pair.av))


def test_a_marker_at_the_end_of_a_reconstructor_s_prompt(pair: Pair) -> None:
    """It is read there, so that it must be the last token."""
    edit_sidecar(pair.ar, {"prompt_templates.ar": AR_TEMPLATE + "{injection_char}", "tokens.critic_suffix_ids": None})
    prompt = ReconstructorPrompt.load(pair.ar, described(Role.AR, pair.ar))
    marker = described(Role.AR, pair.ar).marker
    assert marker is not None
    assert prompt.encode("a > b")[-1] == marker.token_id
    edit_sidecar(pair.ar, {"prompt_templates.ar": "{injection_char}" + AR_TEMPLATE})
    with pytest.raises(CheckpointError, match="the marker is not the template's end"):
        ReconstructorPrompt.load(pair.ar, described(Role.AR, pair.ar))


def test_a_chat_template_without_bos_is_warned_of(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    with_bos_rendered(pair, 0)
    VerbalizerPrompt.load(pair.av, described(Role.AV, pair.av))
    assert ("renders no BOS" in caplog.text) == (SPECIALS[pair.family].bos is not None)


def test_every_special_token_can_be_trimmed(pair: Pair) -> None:
    prompt, special = VerbalizerPrompt.load(pair.av, described(Role.AV, pair.av)), SPECIALS[pair.family]
    assert {special.end, *special.extra} <= set(prompt.stop_texts.values())


def test_a_text_of_megabytes_is_refused_before_it_is_tokenized(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = ReconstructorPrompt.load(pair.ar, described(Role.AR, pair.ar))
    monkeypatch.setattr(ReconstructorPrompt, "encode", None)
    with pytest.raises(InvalidRequest, match="4000000 characters; at most 1000 tokens"):
        prompt.encode_checked("a" * 4_000_000, 1000, "texts")


def test_too_long_a_text_is_refused_not_cut(pair: Pair) -> None:
    prompt = ReconstructorPrompt.load(pair.ar, described(Role.AR, pair.ar))
    with pytest.raises(InvalidRequest, match="at most 8 are taken") as caught:
        prompt.encode_checked("word " * 12, 8, "texts[2]")
    assert caught.value.param == "texts[2]"


def test_no_tokenizer_is_one_line(pair: Pair) -> None:
    for path in pair.av.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(CheckpointError, match="tokenizer") as caught:
        VerbalizerPrompt.load(pair.av, described(Role.AV, pair.av))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["a: [", "just text", ""])
def test_sidecar_that_is_none(pair: Pair, content: str) -> None:
    (pair.av / "nla_meta.yaml").write_text(content)
    with pytest.raises(CheckpointError, match=r"nla_meta\.yaml") as caught:
        described(Role.AV, pair.av)
    assert "\n" not in str(caught.value)


def test_no_sidecar(pair: Pair) -> None:
    (pair.av / "nla_meta.yaml").unlink()
    with pytest.raises(CheckpointError, match=r"has no nla_meta\.yaml"):
        described(Role.AV, pair.av)


def test_a_chat_template_that_writes_the_date_is_warned_of(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    load_both(pair)
    assert "date" not in caplog.text
    path = pair.av / "chat_template.jinja"
    path.write_text("{% set today = strftime_now('%d %b %Y') %}" + path.read_text())
    VerbalizerPrompt.load(pair.av, described(Role.AV, pair.av))
    (warning,) = [record.getMessage() for record in caplog.records if "date" in record.getMessage()]
    assert warning.startswith(f"{pair.av}: ")
    assert "texts may differ from day to day" in warning
