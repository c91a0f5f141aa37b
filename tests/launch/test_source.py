"""`--source` on the command line: when there is a source, which, and what of it is fetched."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from nla_gateway.description import Description
from nla_gateway.roles import Role
from nla_gateway.settings import EngineSettings
from nla_launch.cli import main
from nla_launch.errors import LaunchError
from nla_launch.flags import build_parser
from nla_launch.pair.preset import Preset, load_preset
from nla_launch.pairs import preset_of
from nla_launch.plan import planning
from nla_launch.plan.asked import Asked
from nla_launch.plan.elsewhere import NOWHERE, Elsewhere
from nla_launch.plan.plan import EnginePlan
from nla_launch.run.service import _settings_of
from tests.checkpoints import D_MODEL, LAYER, Pair, edit_sidecar, make_pair

QWEN = ["--preset", "qwen2.5-7b-l20"]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    pair = make_pair(tmp_path_factory.mktemp("pair"), "qwen2", sharded=True)
    shutil.copytree(pair.av, pair.av.parent / "base")
    (pair.av.parent / "base" / "nla_meta.yaml").unlink()
    return pair


def given(pair: Pair, *flags: str) -> list[str]:
    return ["--av", str(pair.av), "--ar", str(pair.ar), "--device", "cpu", *flags]


def chosen(*flags: str) -> Preset:
    return preset_of(build_parser().parse_args(flags))


def planned(*flags: str, elsewhere: Elsewhere = NOWHERE) -> tuple[list[EnginePlan], Mapping[Role, EngineSettings]]:
    (pair,) = planning.plan_all([Asked(chosen(*flags), build_parser().parse_args(flags), elsewhere)])
    return pair.engines, pair.others


def own(tmp_path: Path, **more: Any) -> str:
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump({"name": "own", "av": "o/av", "ar": "o/ar"} | more))
    return str(path)


def test_base_is_the_presets_base_model(tmp_path: Path) -> None:
    assert chosen(*QWEN, "--source", "base").sources[Role.SOURCE] == "Qwen/Qwen2.5-7B-Instruct"
    assert chosen(*QWEN, "--source", "o/other@main:x").sources[Role.SOURCE] == "o/other@main:x"
    assert Role.SOURCE not in chosen(*QWEN).sources
    preset = own(tmp_path, source="base", base_model="o/base")
    assert chosen("--preset", preset).sources[Role.SOURCE] == "o/base"
    assert load_preset(preset).sources[Role.SOURCE] == "o/base"
    assert chosen("--preset", preset, "--source", "o/x").sources[Role.SOURCE] == "o/x"
    assert chosen("--av", "o/av", "--ar", "o/ar", "--source", "o/x").sources[Role.SOURCE] == "o/x"


def test_none_takes_a_presets_source_back(tmp_path: Path) -> None:
    preset = own(tmp_path, source="o/base")
    assert chosen("--preset", preset).source == "o/base"
    assert chosen("--preset", preset, "--source", "none").sources == {Role.AV: "o/av", Role.AR: "o/ar"}
    for nothing in (None, "none"):
        assert Role.SOURCE not in chosen("--preset", own(tmp_path, source=nothing)).sources


def test_what_asks_for_a_source_names_the_base_where_nothing_else_is() -> None:
    for flags in (["--only", "source"], ["--source-url", "http://a:1"]):
        assert chosen(*QWEN, *flags).sources[Role.SOURCE] == "Qwen/Qwen2.5-7B-Instruct"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--preset", "toy", "--source", "base"], "preset toy has no `base_model`: add `base_model: REPO`"),
        (["--preset", "toy", "--only", "source"], "preset toy has no `base_model`"),
        ([*QWEN, "--source", "none", "--only", "source"], "no source is served"),
        ([*QWEN, "--source", "none", "--source-url", "http://a:1"], "no source is served"),
        ([*QWEN, "--source-context", "512"], "no source is served"),
        ([*QWEN, "--only", "av", "--source", "base"], "--only av serves no source, but one is given"),
        ([*QWEN, "--only", "ar", "--source-url", "http://a:1"], "--only ar serves no source"),
        ([*QWEN, "--only", "source", "--av", "o/x"], "--only source serves no verbalizer"),
    ],
)
def test_flags_that_do_not_fit(flags: list[str], message: str) -> None:
    with pytest.raises(LaunchError) as caught:
        chosen(*flags)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"source": "base"}, "`source: base` needs `base_model`"),
        ({"source": {"base": "o/b", "adapters": []}}, "source"),
        ({"engine_args": {"source": ["--chunked-prefill-size", "512"]}}, "the last part's rows would come"),
        ({"engine_args": {"source": ["--port", "1"]}}, "nla-serve chooses"),
    ],
)
def test_presets_that_do_not_fit(tmp_path: Path, more: dict[str, Any], message: str) -> None:
    with pytest.raises(LaunchError, match=message):
        load_preset(own(tmp_path, **more))
    load_preset(own(tmp_path, engine_args={"ar": ["--chunked-prefill-size", "512"]}))


def test_without_a_source_no_word_of_it(pair: Pair, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*given(pair), "--dry-run"]) == 0
    without = capsys.readouterr().out
    assert "source" not in without
    assert main([*given(pair, "--source", str(pair.av.parent / "base")), "--dry-run"]) == 0
    plan = capsys.readouterr().out
    assert plan.startswith(without.rstrip())
    assert plan.removeprefix(without.rstrip()).startswith("\n\nsource\n")
    for part in (
        "NLA_ENGINE_ROLE=source",
        "source.blocks  2  (layer + 1)",
        "--is-embedding",
        '{"num_hidden_layers": 2',
    ):
        assert part in plan.removeprefix(without.rstrip())


def test_the_plan_and_what_gateways_are_told(pair: Pair) -> None:
    (_, _, source), _ = planned(*given(pair, "--source", str(pair.av.parent / "base"), "--source-context", "600"))
    told = _settings_of(source, "127.0.0.1", 1, "k")
    assert (told.model, told.context_length, told.pool_tokens) == ("base", 600, 16_384)
    assert (told.max_in_flight, told.tokenizer) == (source.max_in_flight, pair.av.parent / "base")
    assert told.description == source.description
    assert isinstance(told.description, Description)
    assert (told.description.role, told.description.layer) == (Role.SOURCE, LAYER)


def test_engine_args_of_a_source(pair: Pair, tmp_path: Path) -> None:
    preset = own(
        tmp_path, av=str(pair.av), ar=str(pair.ar), source=str(pair.av.parent / "base"), device="cpu",
        engine_args={"source": ["--schedule-policy", "fcfs"]},
    )  # fmt: skip
    engines, _ = planned("--preset", preset)
    assert [engine.command(1, "k")[-1] == "fcfs" for engine in engines] == [False, False, True]


def test_alone_it_takes_its_layer_from_the_pairs_sidecars(pair: Pair, tmp_path: Path) -> None:
    copied = pair.copy(tmp_path)
    base = str(pair.av.parent / "base")
    preset = own(tmp_path, av=str(copied.av), ar=str(copied.ar), base_model=base, device="cpu")
    (copied.ar / "model.safetensors.index.json").unlink()  # the sidecars are enough
    (source,), _ = planned("--preset", preset, "--only", "source")
    assert source.description is not None
    assert (source.role, source.description.layer, source.config and source.config.blocks) == (Role.SOURCE, 1, 2)
    edit_sidecar(copied.av, {"extraction_layer_index": 0})
    with pytest.raises(LaunchError, match=r"no pair: the sidecars say layers \[0, 1\]"):
        planned("--preset", preset, "--only", "source")
    for folder in (copied.av, copied.ar):
        edit_sidecar(folder, {"extraction_layer_index": ...})
    for flags in ([], ["--dry-run"]):
        with pytest.raises(LaunchError, match="is not stated: add `layer: N` to a preset"):
            planned("--preset", preset, "--only", "source", *flags)
    stated = own(tmp_path, av=None, ar=None, source=base, layer=0, device="cpu")
    (source,), _ = planned("--preset", stated, "--only", "source")
    assert source.config is not None
    assert source.config.blocks == 1


def test_alone_its_width_is_held_to_the_sidecars(pair: Pair, tmp_path: Path) -> None:
    copied = pair.copy(tmp_path)
    for folder in (copied.av, copied.ar):
        edit_sidecar(folder, {"d_model": 32})
    preset = own(tmp_path, av=str(copied.av), ar=str(copied.ar), source=str(pair.av.parent / "base"), device="cpu")
    with pytest.raises(LaunchError, match=f"the source's d_model is {D_MODEL}, the pair's 32"):
        planned("--preset", preset, "--only", "source")


def test_elsewhere(pair: Pair) -> None:
    there = Elsewhere({Role.SOURCE: ("http://a:1",)}, "k")
    base = str(pair.av.parent / "base")
    engines, others = planned(*given(pair, "--source", base, "--source-url", "http://a:1"), elsewhere=there)
    assert [engine.role for engine in engines] == [Role.AV, Role.AR]
    assert others[Role.SOURCE].context_length == 1024
    assert others[Role.SOURCE].described().layer == LAYER
