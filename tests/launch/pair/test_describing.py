"""What is understood of each dialect's tiny pair; nothing stated is ever ignored; what is not stated is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file

from nla_gateway.description import Description
from nla_gateway.errors import CheckpointError
from nla_gateway.roles import Role
from nla_launch.errors import LaunchError
from nla_launch.pair.checkpoints import find
from nla_launch.pair.preflight import check_checkpoints, describe_checkpoints
from nla_launch.pair.preset import load_preset
from nla_launch.pair.rules import Rules
from tests.checkpoints import AR_TEMPLATE, LAYER, Pair, edit_sidecar
from tests.descriptions import described
from tests.dialects import DIALECTS, OPENED, dataset, easynla, fill, make, nested, reference, write
from tests.pages import of_kind

PRESETS: dict[str, dict[str, Any]] = {(one := yaml.safe_load(it.text))["name"]: one for it in of_kind("preset")}


def test_every_dialect_has_its_preset_on_the_page() -> None:
    assert sorted(PRESETS) == sorted(DIALECTS)


@pytest.mark.parametrize("name", DIALECTS)
def test_a_dialect_is_served_by_its_preset(name: str, tmp_path: Path) -> None:
    preset = load_preset(str(fill(PRESETS[name], make(name, tmp_path), tmp_path / "own.yaml")))
    found = {role: find(source, "all") for role, source in preset.sources.items()}
    descriptions = describe_checkpoints(found, preset)
    check_checkpoints(found, descriptions)
    values = {role.value: one.model_dump(mode="json") for role, one in descriptions.items()}
    assert {field: nested(values, field) for field in DIALECTS[name].said} == DIALECTS[name].said


WITHOUT: dict[str, tuple[str, str]] = {
    "easynla": ("verbalizer", "`verbalizer: {injection: {rule: add_after_block, block: 1}}`"),
    "easynla-adapters": ("verbalizer", "`verbalizer: {injection: {rule: add_after_block, block: 1}}`"),
    "anicka": ("reconstructor", "`reconstructor: {value_head: none}`"),
    "alexwortega": ("verbalizer", "`verbalizer: {injection: {rule: replace, scale: N}}`"),
    "corrupt-head": ("reconstructor", "NaN or infinite values"),
}


@pytest.mark.parametrize("name", WITHOUT)
def test_without_its_lines_it_is_refused_with_them(name: str, tmp_path: Path) -> None:
    left_out, line = WITHOUT[name]
    given = make(name, tmp_path)
    preset = {key: value for key, value in PRESETS[name].items() if key != left_out} | {"av": given.av, "ar": given.ar}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(preset))
    loaded = load_preset(str(tmp_path / "own.yaml"))
    found = {role: find(source, "all") for role, source in loaded.sources.items()}
    with pytest.raises(LaunchError) as caught:
        check_checkpoints(found, describe_checkpoints(found, loaded))
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def refusal(role: Role, folder: Path, rules: dict[str, Any] | None = None) -> str:
    with pytest.raises(CheckpointError) as caught:
        described(role, folder, Rules.model_validate(rules or {}))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("value", [None, "raw", "none", ...])
def test_of_a_dataset_no_null_is_a_rule(pair: Pair, value: Any) -> None:
    easynla(pair)
    if value is not ...:
        edit_sidecar(pair.av, {"extraction.injection_scale": value})
    line = refusal(Role.AV, pair.av)
    for way in ("{rule: add_after_block, block: 1}", "{rule: replace, scale: N}", "`scale: raw`"):
        assert way in line
    given = {"verbalizer": {"injection": {"rule": "replace", "scale": "raw"}}}
    assert described(Role.AV, pair.av, Rules.model_validate(given)).injection_scale is None


def test_a_null_of_a_trainer_is_none_either(pair: Pair) -> None:
    """In the released form it is said to mean as it is; the reference's own reader refuses it."""
    edit_sidecar(pair.av, {"extraction.injection_scale": None})
    assert described(Role.AV, pair.av).injection_scale is None
    reference(pair)
    assert "(injection_scale is null)" in refusal(Role.AV, pair.av)
    edit_sidecar(pair.av, {"extraction.injection_scale": "raw"})
    assert described(Role.AV, pair.av).injection_scale is None


def with_head(pair: Pair, **tensors: torch.Tensor) -> None:
    (pair.ar / "value_head.safetensors").unlink()
    save_file(tensors, pair.ar / "value_head.safetensors")


REFUSED: dict[str, tuple[Role, Callable[[Pair], object], str]] = {
    "depth": (
        Role.AV,
        lambda p: edit_sidecar(p.av, {"variant": "universal", "extraction_layer_index": ...}),
        "is of variant 'universal': one for several layers",
    ),
    "depth in a template": (
        Role.AV,
        lambda p: edit_sidecar(p.av, {"prompt_templates.av": "At {depth_pct}%: {injection_char}"}),
        "{depth_pct}, which nla-serve cannot fill: it was trained for several layers",
    ),
    "universal reconstructor": (
        Role.AR,
        lambda p: edit_sidecar(p.ar, {"variant": "universal", "extraction_layer_index": ..., "prompt_templates": {}}),
        "`layer: N` and `reconstructor: {template: ...}`",
    ),
    "heads by layer": (
        Role.AR,
        lambda p: with_head(p, **{f"value_head.{layer}.weight": torch.eye(64) for layer in (4, 10)}),
        "heads by layer, `value_head.10.weight`, `value_head.4.weight`",
    ),
    "named head": (Role.AR, lambda p: with_head(p, linear=torch.eye(64)), "weight: KEY}}`"),
    "pickled head": (
        Role.AR,
        lambda p: (p.ar / "value_head.safetensors").rename(p.ar / "linear_head.pt"),
        "convert it by `nla-convert ",
    ),
    "no layer": (Role.AR, lambda p: edit_sidecar(p.ar, {"extraction_layer_index": ...}), "add `layer: N` to a preset"),
    "no marker": (
        Role.AV,
        lambda p: edit_sidecar(p.av, {"tokens.injection_token_id": ...}),
        "`marker: {char: ..., token_id: ...}`",
    ),
    "no template": (
        Role.AR,
        lambda p: edit_sidecar(p.ar, {"prompt_templates": {"av": "x"}}),
        "`reconstructor: {template: ...}`",
    ),
    "foreign sidecar": (
        Role.AV,
        lambda p: (p.av / "nla_meta.yaml").rename(p.av / "nla_config.json"),
        "has nla_config.json instead of nla_meta.yaml",
    ),
    "two sidecars": (
        Role.AV,
        lambda p: [(p.av / "nla_meta.yaml").rename(p.av / "a.nla_meta.yaml"), write(p.av, {}, "b.nla_meta.yaml")],
        "several sidecars, a.nla_meta.yaml, b.nla_meta.yaml",
    ),
    "two layers": (
        Role.AV,
        lambda p: edit_sidecar(p.av, {"extraction.layer_index": 7}),
        "`extraction_layer_index` is 1 and `extraction.layer_index` is 7",
    ),
    "two sizes": (
        Role.AV,
        lambda p: edit_sidecar(p.av, {"extraction.d_model": 32}),
        "`d_model` is 64 and `extraction.d_model` is 32",
    ),
    "another mode": (
        Role.AV,
        lambda p: edit_sidecar(p.av, {"training": {"injection_mode": "multiply"}}),
        "`injection_mode: multiply` is a way of injection",
    ),
    "blocks by ar_meta": (
        Role.AR,
        lambda p: (p.ar / "ar_meta.json").write_text('{"ar_num_layers": 5, "final_norm_stripped": true}'),
        "ar_meta.json says ar_num_layers 5",
    ),
    "swapped": (Role.AR, lambda p: write(p.ar, yaml.safe_load((p.av / "nla_meta.yaml").read_text())), "swapped"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_served_is_refused_by_name(pair: Pair, name: str) -> None:
    role, change, message = REFUSED[name]
    change(pair)
    assert message in refusal(role, pair.av if role is Role.AV else pair.ar)


def test_a_kept_norm_is_stated(pair: Pair) -> None:
    """By ar_meta.json, where that does not say that it was dropped; else by a preset, if the weights have one."""
    (pair.ar / "ar_meta.json").write_text('{"ar_num_layers": 2}')
    one = described(Role.AR, pair.ar)
    assert (one.of_reconstructor().final_norm, one.origin["reconstructor.final_norm"]) == (True, "ar_meta.json")
    (pair.ar / "ar_meta.json").unlink()
    write(pair.ar, dataset(pair, "ar_sft"))
    assert described(Role.AR, pair.ar).origin["reconstructor.final_norm"] == "weights"
    save_file({"model.norm.weight": torch.ones(64)}, pair.ar / "more.safetensors")
    assert "`reconstructor: {final_norm: false}`" in refusal(Role.AR, pair.ar)
    assert described(Role.AR, pair.ar, Rules.model_validate({"reconstructor": {"final_norm": True}}))


@pytest.mark.parametrize("level", ["run", "run/iter_200"])
def test_one_sidecar_may_be_for_all_steps(pair: Pair, tmp_path: Path, level: str) -> None:
    step = tmp_path / "run" / "iter_200" / "av"
    step.parent.mkdir(parents=True)
    pair.av.rename(step)
    (step / "nla_meta.yaml").rename(tmp_path / level / "nla_meta.yaml")
    assert described(Role.AV, step).origin["layer"] == "sidecar of a folder above"


def test_a_verbalizer_takes_its_pair_s_layer(pair: Pair) -> None:
    reference(pair)
    found = {Role.AV: find(str(pair.av), "all"), Role.AR: find(str(pair.ar), "all")}
    av = describe_checkpoints(found)[Role.AV]
    assert (av.layer, av.origin["layer"]) == (LAYER, "the reconstructor's sidecar")
    assert described(Role.AV, pair.av).layer is None


STATED: dict[str, tuple[Role, Any, str, Any]] = {
    "layer": (Role.AV, {"layer": 7}, "layer", 7),
    "mse_scale": (Role.AV, {"mse_scale": 3}, "mse_scale", 3.0),
    "no scores": (Role.AR, {"mse_scale": "none"}, "mse_scale", None),
    "char": (Role.AV, {"marker": {"char": "x"}}, "marker.char", "x"),
    "token_id": (Role.AV, {"marker": {"token_id": 5}}, "marker.token_id", 5),
    "left": (Role.AV, {"marker": {"left": 5}}, "marker.left", 5),
    "right": (Role.AV, {"marker": {"right": 5}}, "marker.right", 5),
    "template": (Role.AV, {"verbalizer": {"template": "a {injection_char} b"}}, "template", "a {injection_char} b"),
    "rule": (Role.AV, {"verbalizer": {"injection": {"rule": "add_after_block", "block": 2}}},
             "verbalizer.injection.block", 2),
    "scale": (Role.AV, {"verbalizer": {"injection": {"rule": "replace", "scale": 5}}},
              "verbalizer.injection.scale", 5.0),
    "prompt": (Role.AV, {"verbalizer": {"prompt": "plain"}}, "verbalizer.prompt", "plain"),
    "thinking": (Role.AV, {"verbalizer": {"enable_thinking": False}}, "verbalizer.enable_thinking", False),
    "append": (Role.AV, {"verbalizer": {"append": "<x>"}}, "verbalizer.append", "<x>"),
    "append_to_turn": (Role.AV, {"verbalizer": {"append_to_turn": "<x>"}}, "verbalizer.append_to_turn", "<x>"),
    "tags": (Role.AV, {"verbalizer": {"tags": "none"}}, "verbalizer.tags", "none"),
    "max_tokens": (Role.AV, {"verbalizer": {"max_tokens": 9}}, "verbalizer.max_tokens", 9),
    "complete_at_limit": (Role.AV, {"verbalizer": {"max_tokens": 9, "complete_at_limit": True}},
                          "verbalizer.complete_at_limit", True),
    "ar template": (Role.AR, {"reconstructor": {"template": "{explanation}!"}}, "template", "{explanation}!"),
    "blocks": (Role.AR, {"reconstructor": {"blocks": 9}}, "reconstructor.blocks", 9),
    "final_norm": (Role.AR, {"reconstructor": {"final_norm": True}}, "reconstructor.final_norm", True),
    "no head": (Role.AR, {"reconstructor": {"value_head": "none"}}, "reconstructor.value_head", None),
    "head": (Role.AR, {"reconstructor": {"value_head": {"file": "h.safetensors", "weight": "w", "bias": "b"}}},
             "reconstructor.value_head.weight", "w"),
    "add_special_tokens": (Role.AR, {"reconstructor": {"add_special_tokens": False}},
                           "reconstructor.add_special_tokens", False),
    "suffix_ids": (Role.AR, {"reconstructor": {"suffix_ids": [3]}}, "reconstructor.suffix_ids", [3]),
    "no suffix": (Role.AR, {"reconstructor": {"suffix_ids": []}}, "reconstructor.suffix_ids", []),
}  # fmt: skip


def leaves(model: Any, prefix: str = "") -> set[str]:
    """All that a preset can state, by dotted names."""
    found = set()
    for key, info in model.model_fields.items():
        kinds = [kind for kind in (info.annotation, *getattr(info.annotation, "__args__", ())) if
                 hasattr(kind, "model_fields")]  # fmt: skip
        found |= leaves(kinds[0], f"{prefix}{key}.") if kinds else {f"{prefix}{key}"}
    return found


def test_all_that_can_be_stated_is_tried() -> None:
    tried: set[str] = set()

    def walk(values: dict[str, Any], prefix: str) -> None:
        for key, value in values.items():
            walk(value, f"{prefix}{key}.") if isinstance(value, dict) else tried.add(f"{prefix}{key}")

    for _, rules, _, _ in STATED.values():
        walk(rules, "")
    assert {name.removesuffix(".") for name in leaves(Rules)} <= tried | {"reconstructor.value_head"}


@pytest.mark.parametrize("name", STATED)
def test_what_a_preset_states_is_never_ignored(pair: Pair, name: str) -> None:
    role, rules, field, value = STATED[name]
    folder = pair.av if role is Role.AV else pair.ar
    before, after = described(role, folder), described(role, folder, Rules.model_validate(rules))
    assert nested(after.model_dump(mode="json"), field) == value
    assert nested(before.model_dump(mode="json"), field) != value
    origins = [origin for key, origin in after.origin.items() if field.startswith(key) or key.startswith(field)]
    assert "preset" in origins


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("verbalizer: {injection: {rule: add_after_block}}", "needs the block, such as `block: 1`"),
        ("verbalizer: {injection: {rule: add_after_block, block: 1, scale: 3}}", "it takes no scale"),
        ("verbalizer: {injection: {rule: replace, block: 1}}", "it takes no block"),
        ("verbalizer: {injection: {rule: swap}}", "injection"),
        ("verbalizer: {prompt: plain, enable_thinking: false}", "prompt: plain uses none"),
        ("verbalizer: {complete_at_limit: true}", "needs the limit"),
        ("verbalizer: {tag: none}", "verbalizer.tag"),
        ("reconstructor: {value_head: {weight: w}}", "value_head"),
        ("marker: {character: x}", "marker.character"),
    ],
)
def test_presets_that_do_not_fit(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "own.yaml").write_text(f"name: own\nav: a/b\nar: a/c\n{text}\n")
    with pytest.raises(LaunchError) as caught:
        load_preset(str(tmp_path / "own.yaml"))
    assert message in str(caught.value)


def test_a_preset_may_state_all_and_no_sidecar_be_there(pair: Pair) -> None:
    tokens = yaml.safe_load((pair.av / "nla_meta.yaml").read_text())["tokens"]
    for folder in (pair.av, pair.ar):
        (folder / "nla_meta.yaml").unlink()
    rules = {
        "layer": LAYER,
        "marker": {"char": tokens["injection_char"], "token_id": tokens["injection_token_id"]},
        "verbalizer": {"template": OPENED, "injection": {"rule": "replace", "scale": 8}},
        "reconstructor": {"template": AR_TEMPLATE},
    }
    found = {Role.AV: find(str(pair.av), "all"), Role.AR: find(str(pair.ar), "all")}
    descriptions = describe_checkpoints(found, Rules.model_validate(rules))
    check_checkpoints(found, descriptions)
    assert set(descriptions[Role.AR].origin.values()) <= {"preset", "config.json", "default", "weights", "layer + 1"}
    assert descriptions[Role.AV].of_verbalizer().tags == "closing"


def test_descriptions_travel_as_json(pair: Pair) -> None:
    for role, folder in ((Role.AV, pair.av), (Role.AR, pair.ar)):
        one = described(role, folder)
        assert Description.model_validate_json(one.model_dump_json()) == one
