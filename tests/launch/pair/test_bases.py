"""A base and its adapters: how much of it is served, what the engine is told, and what is refused before it starts."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from nla_gateway.description import ValueHead
from nla_gateway.roles import Role
from nla_launch.errors import LaunchError
from nla_launch.flags import build_parser
from nla_launch.pair.bases import served_config, whole_config
from nla_launch.pair.checkpoints import Adapter, Checkpoint, find
from nla_launch.pair.fingerprint import fingerprint_of
from nla_launch.pair.model_config import ModelConfig, read_config
from nla_launch.pair.preflight import check_checkpoints, describe_checkpoints
from nla_launch.pair.preset import load_preset
from nla_launch.pair.shards import Part, wanted_files
from nla_launch.pair.sidecar import find_sidecar
from nla_launch.pair.sources import AdapterSource, Based
from nla_launch.pairs import preset_of
from nla_launch.plan.placement import Request, Target, plan_pair
from nla_launch.plan.served import told
from tests.adapters import save_adapter, save_single_file
from tests.checkpoints import D_MODEL, edit_sidecar, make_pair, write_sidecar
from tests.pages import of_kind

RSLORA = {"r": 4, "lora_alpha": 9, "use_rslora": True}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, a verbalizer's adapter `av`, and a reconstructor's single file `ar`."""
    folder = tmp_path_factory.mktemp("based")
    base = make_pair(folder, "gemma3", sharded=True).av
    (base / "nla_meta.yaml").unlink()
    tokenizer = AutoTokenizer.from_pretrained(base)
    save_adapter(AutoModelForCausalLM.from_pretrained(base), folder / "av", target_modules=["q_proj"], **RSLORA)
    backbone = AutoModelForCausalLM.from_pretrained(base)
    backbone.model.layers = backbone.model.layers[:2]
    save_single_file(backbone, folder / "ar", torch.eye(D_MODEL))
    for role in ("av", "ar"):
        write_sidecar(folder / role, role, tokenizer, "gemma3")
    return folder


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    for name in ("verbalizer", "av", "ar"):
        (tmp_path / name).mkdir()
        for file in (original / name).iterdir():
            (tmp_path / name / file.name).write_bytes(file.read_bytes())
    return tmp_path


def found(folder: Path, role: Role, **stated: Any) -> Checkpoint:
    """Find the base with the adapter of a role."""
    adapter = AdapterSource(source=str(folder / role), **stated)
    return find(Based(base=str(folder / "verbalizer"), adapters=(adapter,)), "all")


def both(folder: Path) -> dict[Role, Checkpoint]:
    return {Role.AV: found(folder, Role.AV), Role.AR: found(folder, Role.AR, use_rslora=True)}


def served(role: Role, checkpoint: Checkpoint) -> ModelConfig:
    config = whole_config(role, checkpoint)
    assert config is not None
    return served_config(checkpoint, config, describe_checkpoints({role: checkpoint})[role])


def check(checkpoints: dict[Role, Checkpoint]) -> None:
    check_checkpoints(checkpoints, describe_checkpoints(checkpoints))


def head_of(checkpoint: Checkpoint) -> ValueHead | None:
    return describe_checkpoints({Role.AR: checkpoint})[Role.AR].of_reconstructor().value_head


def test_where_its_files_are(folder: Path) -> None:
    av, ar = both(folder).values()
    assert (av.name, ar.name) == ("av", "ar")
    assert av.model_path == ar.model_path == folder / "verbalizer"
    assert (find_sidecar(ar.places), ar.tokenizer_folder) == (folder / "ar" / "nla_meta.yaml", folder / "verbalizer")
    single = ValueHead(file=folder / "ar" / "ar_lora_value_head.safetensors", weight="value_head.weight")
    assert head_of(ar) == single
    (folder / "ar" / "tokenizer.json").write_text("{}")
    assert ar.tokenizer_folder == folder / "ar"
    save_file({"weight": torch.eye(D_MODEL)}, folder / "ar" / "value_head.safetensors")
    assert head_of(ar) == ValueHead(file=folder / "ar" / "value_head.safetensors", weight="weight")


def test_a_single_file_may_be_named_itself(folder: Path) -> None:
    source = Based(base=str(folder / "verbalizer"), adapters=(f"{folder}/ar/ar_lora_value_head.safetensors",))
    assert find(source, "all").adapters[0].folder == folder / "ar"


def test_of_a_reconstructor_s_base_the_first_blocks_are_taken(folder: Path) -> None:
    checkpoints = both(folder)
    whole = read_config(folder / "verbalizer")
    assert served(Role.AV, checkpoints[Role.AV]) == whole
    cut = served(Role.AR, checkpoints[Role.AR])
    assert (whole.blocks, cut.blocks) == (3, 2)
    assert cut.changed == {"num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"]}
    assert cut.block_parameters() < whole.block_parameters()


def test_a_wrapper_s_blocks_are_cut_where_they_stand(folder: Path) -> None:
    path = folder / "verbalizer" / "config.json"
    text = json.loads(path.read_text())
    path.write_text(json.dumps({"architectures": ["Gemma3ForConditionalGeneration"], "text_config": text}))
    cut = served(Role.AR, both(folder)[Role.AR])
    assert cut.changed["text_config"]["num_hidden_layers"] == 2


def test_what_the_engine_is_told(folder: Path) -> None:
    checkpoints = both(folder)
    said = describe_checkpoints(checkpoints)
    targets = {role: Target(one, served(role, one), said[role]) for role, one in checkpoints.items()}
    av, ar = plan_pair(targets, Request(device="cpu"), [])
    engine = json.loads(ar.environment()["NLA_ENGINE_CHECKPOINT"])
    assert engine["adapters"] == [{"path": str(folder / "ar"), "use_rslora": True}]
    assert engine["blocks"] == 2
    assert engine["value_head"]["weight"] == "value_head.weight"
    assert json.loads(av.environment()["NLA_ENGINE_CHECKPOINT"])["adapters"][0]["use_rslora"] is None
    command = ar.command(1, "k")
    assert command[command.index("--model-path") + 1] == str(folder / "verbalizer")
    assert json.loads(command[command.index("--json-model-override-args") + 1])["num_hidden_layers"] == 2
    assert "--tokenizer-path" not in command
    (folder / "av" / "tokenizer.json").write_text("{}")
    command = av.command(1, "k")
    assert command[command.index("--tokenizer-path") + 1] == str(folder / "av")
    assert not {"--lora-paths", "--enable-lora"} & {*av.command(1, "k"), *ar.command(1, "k")}


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def other_base(folder: Path) -> None:
    path = folder / "av" / "adapter_model.safetensors"
    save_file({name: torch.ones(4, 32) if "_A" in name else value for name, value in load_file(path).items()}, path)


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "dora": (lambda p: edit(p / "av/adapter_config.json", use_dora=True), "`use_dora` is set"),
    "other base": (other_base, "is it an adapter of another base?"),
    "quantized": (
        lambda p: edit(p / "verbalizer/config.json", quantization_config={"quant_method": "fp8"}),
        "is quantized, and nothing can be merged into that: give the base in bfloat16",
    ),
    "no sidecar": (lambda p: (p / "ar/nla_meta.yaml").unlink(), "has no nla_meta.yaml: is it an NLA checkpoint?"),
    "blocks": (
        lambda p: edit(p / "ar/ar_meta.json", ar_num_layers=3),
        "has 2 blocks, but ar_meta.json says",
    ),
    "deep": (
        lambda p: (
            edit_sidecar(p / "ar", {"extraction_layer_index": 7}),
            edit(p / "ar/ar_meta.json", ar_num_layers=8),
        ),
        "a reconstructor of 8 blocks, of a base that has 3",
    ),
    "no head": (
        lambda p: save_file(
            {n: v for n, v in load_file(p / "ar/ar_lora_value_head.safetensors").items() if "lora" in n},
            p / "ar/ar_lora_value_head.safetensors",
        ),
        "has no value_head.safetensors, which a reconstructor needs",
    ),
    "no weights": (lambda p: (p / "av/adapter_model.safetensors").unlink(), "must have either adapter_model"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_is_one_clear_line(folder: Path, fault: str) -> None:
    break_it, message = FAULTS[fault]
    break_it(folder)
    with pytest.raises(LaunchError) as caught:
        check(both(folder))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_whole_and_based_pass(folder: Path) -> None:
    check(both(folder))
    check({Role.AR: both(folder)[Role.AR]})


def beyond(base: Path, part: Part) -> list[Path]:
    """Files of a base that a part of it does not need."""
    wanted = wanted_files(base, part)
    assert wanted is not None
    return [path for path in base.glob("*.safetensors") if path.name not in wanted]


def test_of_a_reconstructor_s_base_later_files_may_be_missing_and_none_that_is_needed(folder: Path) -> None:
    base, before = folder / "verbalizer", fingerprints(folder)
    for file in beyond(base, Part(2)):
        file.unlink()
    ar = {Role.AR: both(folder)[Role.AR]}
    check(ar)
    assert fingerprints(folder) == {**before, Role.AV: None}
    with pytest.raises(LaunchError, match="is missing, or no file of safetensors: fetch it again"):
        check(both(folder))
    edit(folder / "ar/ar_meta.json", final_norm_stripped=False)
    with pytest.raises(LaunchError, match="is missing, or no file of safetensors: fetch it again"):
        check(ar)
    edit(folder / "ar/ar_meta.json", final_norm_stripped=True)
    next(path for path in base.glob("*.safetensors") if path not in beyond(base, Part(1))).unlink()
    with pytest.raises(LaunchError, match="is missing, or no file of safetensors: fetch it again"):
        check(ar)
    assert fingerprints(folder) == {Role.AV: None, Role.AR: None}


def fingerprints(folder: Path) -> dict[Role, str | None]:
    found = both(folder)
    said = describe_checkpoints(found)
    return {role: fingerprint_of(one, said[role]) for role, one in found.items()}


def scaled(path: Path, name: str) -> None:
    tensors = load_file(path)
    tensors[name] *= 1.5
    save_file(tensors, path, {"format": "pt"})


def test_what_tells_a_reconstructor_of_a_base_from_others(folder: Path) -> None:
    base = folder / "verbalizer"
    files = json.loads((base / "model.safetensors.index.json").read_text())["weight_map"]
    factor = next(name for name in load_file(folder / "ar/ar_lora_value_head.safetensors") if "lora_A" in name)
    before = fingerprints(folder)[Role.AR]
    later = "model.layers.2.mlp.up_proj.weight"
    scaled(base / files[later], later)
    assert fingerprints(folder)[Role.AR] == before
    changed = []
    for path, name in (
        (base / files["model.layers.1.mlp.up_proj.weight"], "model.layers.1.mlp.up_proj.weight"),
        (folder / "ar/ar_lora_value_head.safetensors", factor),
        (folder / "ar/ar_lora_value_head.safetensors", "value_head.weight"),
    ):
        scaled(path, name)
        changed.append(fingerprints(folder)[Role.AR])
    edit(base / "config.json", rms_norm_eps=0.5)
    changed.append(fingerprints(folder)[Role.AR])
    edit_sidecar(folder / "ar", {"schema_version": 1})
    changed.append(fingerprints(folder)[Role.AR])
    assert len({before, *changed}) == 6


def test_what_is_read_of_a_base_is_told_to_the_engine(folder: Path) -> None:
    checkpoints = both(folder)
    said = describe_checkpoints(checkpoints)
    av, ar = (told(served(role, one), one, said[role]) for role, one in checkpoints.items())
    assert "files" not in av
    assert ar["files"] == wanted_files(folder / "verbalizer", Part(2))
    assert beyond(folder / "verbalizer", Part(2))


def test_a_norm_that_was_kept_is_the_base_s(folder: Path) -> None:
    edit(folder / "ar/ar_meta.json", final_norm_stripped=False)
    said = describe_checkpoints(both(folder))
    assert said[Role.AR].of_reconstructor().final_norm
    check_checkpoints(both(folder), said)


def test_the_scale_of_a_single_file_must_be_stated(folder: Path) -> None:
    with pytest.raises(LaunchError, match="use_rslora: true"):
        check({Role.AR: found(folder, Role.AR)})


def test_an_adapter_that_is_not_there_yet(folder: Path) -> None:
    """As on a machine without a network, before anything is fetched: no more is known than of a whole checkpoint."""
    base = find(str(folder / "verbalizer"), "plan")
    based = replace(base, base=base.source, adapters=(Adapter("owner/adapter", None),))
    assert whole_config(Role.AR, based) is None


def test_an_adapter_alone_is_told_from_a_checkpoint(folder: Path) -> None:
    with pytest.raises(LaunchError, match="is an adapter: name its base, too, with --av BASE --av-adapter"):
        whole_config(Role.AV, find(str(folder / "av"), "all"))


def test_presets_and_flags_name_the_same(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("name: own\nav: {base: o/base, adapters: [o/one, {source: o/two, use_rslora: false}]}\nar: null\n")
    source = load_preset(str(path)).sources[Role.AV]
    assert isinstance(source, Based)
    assert source.stated == (AdapterSource(source="o/one"), AdapterSource(source="o/two", use_rslora=False))
    assert str(source) == "o/base + o/one + o/two"
    flags = ["--only", "av", "--av", "o/base", "--av-adapter", "o/one", "--av-adapter", "o/two"]
    assert preset_of(build_parser().parse_args(flags)).av == Based(base="o/base", adapters=("o/one", "o/two"))
    other = preset_of(build_parser().parse_args(["--preset", str(path), "--only", "av", "--av-adapter", "o/three"]))
    assert other.av == Based(base="o/base", adapters=("o/three",))
    with pytest.raises(LaunchError, match="serves no reconstructor"):
        preset_of(build_parser().parse_args([*flags, "--ar-adapter", "o/x"]))


def test_sglang_s_own_adapters_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("name: own\nav: o/base\nar: null\nengine_args: {av: ['--lora-paths', 'a=b']}\n")
    with pytest.raises(LaunchError, match="SGLang ignores use_rslora"):
        load_preset(str(path))


@pytest.mark.parametrize("snippet", of_kind("adapters"))
def test_the_pages_presets_load(snippet: Any, tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(f"name: own\n{snippet.text}")
    assert all(isinstance(source, Based) for source in load_preset(str(path)).sources.values())
