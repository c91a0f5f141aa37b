"""Flags and files that ask for several pairs."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from nla_gateway.roles import Role
from nla_launch.errors import LaunchError
from nla_launch.flags import build_parser
from nla_launch.pairs import asked_for
from nla_launch.plan.asked import Asked
from tests.launch.test_cli import fails, run

TWO = ("--pair", "a=toy", "--pair", "b=qwen2.5-7b-l20 --tp 2 --source base")


def asked(*flags: str) -> list[Asked]:
    return asked_for(build_parser().parse_args(flags))


def file(tmp_path: Path, content: Any) -> str:
    path = tmp_path / "pairs.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False))
    return str(path)


def test_one_pair_has_the_name_of_its_preset() -> None:
    (toy,) = asked("--preset", "toy")
    assert (toy.name, toy.called, toy.label(Role.AV), toy.prefix) == ("toy", None, "verbalizer", "")
    (own,) = asked("--pair", "mine=toy")
    assert (own.name, own.called, own.label(Role.AV)) == ("mine", None, "verbalizer")


def test_each_has_flags_of_its_own_on_top_of_those_for_all() -> None:
    a, b = asked(*TWO, "--device", "cpu", "--tp", "1", "--source", "none")
    assert [one.name for one in (a, b)] == ["a", "b"]
    assert b.label(Role.SOURCE) == "b source"
    assert [one.arguments.device for one in (a, b)] == ["cpu", "cpu"]
    assert [one.arguments.tp for one in (a, b)] == [1, 2]
    assert Role.SOURCE not in a.preset.sources
    assert b.preset.sources[Role.SOURCE] == "Qwen/Qwen2.5-7B-Instruct"


def test_a_file_says_the_same(tmp_path: Path) -> None:
    content = {"a": "toy", "b": {"preset": "qwen2.5-7b-l20", "tp": 2, "source": "base", "trust_remote_code": True},
               "c": {"av": "o/av", "ar": "o/ar", "gpus": [0, 1], "av-url": ["http://x:1", "http://y:1"]}}  # fmt: skip
    a, b, c = asked("--pairs", file(tmp_path, content), "--engine-key", "k")
    assert (a.preset.name, b.preset.name, c.preset.name) == ("toy", "qwen2.5-7b-l20", "custom")
    assert (b.arguments.tp, b.arguments.trust_remote_code, a.arguments.trust_remote_code) == (2, True, False)
    assert c.preset.sources == {Role.AV: "o/av", Role.AR: "o/ar"}
    assert c.arguments.gpus == (0, 1)
    assert c.elsewhere.urls == {Role.AV: ("http://x:1", "http://y:1")}
    assert not a.elsewhere.urls
    more = asked("--pairs", file(tmp_path, content), "--engine-key", "k", "--pair", "d=demo")
    assert [one.name for one in more] == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--pair", "toy"), "--pair toy: must look like NAME=PRESET"),
        (("--pair", "a b=toy"), "must look like NAME=PRESET"),
        (("--pair", "=toy"), "must look like NAME=PRESET"),
        (("--pair", "a=toy", "--pair", "a=demo"), "there is a pair a already"),
        (("--pair", "a='toy"), "no closing quotation"),
        (("--pair", "a=nowhere"), "pair a: no preset 'nowhere'"),
        (("--pair", "a=toy --tp x"), "pair a: argument --tp: must be a whole number, not 'x'"),
        (("--pair", "a=toy --port 1"), "pair a: unrecognized arguments: --port 1"),
        (("--pair", "a=toy", "--preset", "demo"), "--preset is for one pair: write it in that pair's words"),
        (("--pair", "a=toy", "--av-url", "http://x:1"), "--av-url is for one pair"),
        (("--pair", "a=toy", "--source", "o/base"), "--source is for one pair"),
        (("--pair", "a=toy", "--pair", "b=demo", "--nnodes", "2"), "--nnodes is for one pair"),
        (("--pair", "a=toy", "--pair", "b=demo", "--engine-listen", "127.0.0.1:1"), "--engine-listen is for one"),
        (("--pair", "a=toy --av-url http://x:1"), "pair a: give the key that engines ask other machines for"),
    ],
)
def test_what_makes_no_sense_is_named(flags: tuple[str, ...], message: str) -> None:
    with pytest.raises(LaunchError) as told:
        asked(*flags)
    assert message in str(told.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: [toy]", "a"),
        ("- toy", "valid dictionary"),
        ("{}", "it names no pair"),
        ("a b: toy", "a b"),
        ("a: {presett: toy}", "pair a: unrecognized arguments: --presett=toy"),
        ("a: {tp: x}", "pair a: argument --tp: must be a whole number, not 'x'"),
        ("a: {tp: {x: 1}}", "a"),
        ("a: {tp: [1, 2]}", "pair a: --tp takes one value, not [1, 2]"),
        ("a: {tp: yes}", "pair a: --tp takes one value, not true"),
        ("a: {trust_remote_code: 1}", "pair a: argument --trust-remote-code: ignored explicit argument '1'"),
        ("a: toy\nb: toy\na: demo", "'a' stands there twice"),
        ("a: {tp: 1, tp: 2}", "'tp' stands there twice"),
        ("a: {", "is not YAML"),
    ],
)
def test_a_file_that_makes_no_sense(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(LaunchError) as told:
        asked("--pairs", file(tmp_path, content))
    assert message in str(told.value)
    assert "\n" not in str(told.value)
    with pytest.raises(LaunchError, match="cannot be read"):
        asked("--pairs", str(tmp_path / "none.yaml"))


def test_a_dry_run_shows_all(tmp_path: Path) -> None:
    machine = tmp_path / "inventory.yaml"
    machine.write_text("gpus: [{count: 2, name: H100, memory_gb: 80, compute_capability: 9.0}]")
    flags = ("--pair", "a=toy --device cuda", "--pair", "b=toy --device cuda --only av")
    done = run(*flags, "--dry-run", "--inventory", str(machine))
    assert done.returncode == 0, done.stderr
    blocks = done.stdout.split("\n\n")
    assert [block.splitlines()[0] for block in blocks[:3]] == ["a verbalizer", "a reconstructor", "b verbalizer"]
    assert [line.split()[-1] for line in done.stdout.splitlines() if line.startswith("  gpus ")] == ["0", "0", "1"]
    assert "a verbalizer" in blocks[3]
    assert "b verbalizer" in blocks[3]
    # Where there are no GPUs, as many are supposed as all together want.
    done = run("--pair", "a=toy --device cuda --tp 2", "--pair", "b=toy --device cuda --only av", "--dry-run")
    gpus = [line.split(maxsplit=1)[1] for line in done.stdout.splitlines() if line.startswith("  gpus ")]
    assert gpus == ["0, 1", "0, 1", "2"]


def test_an_error_is_one_line_with_the_pairs_name() -> None:
    assert fails("--pair", "a=toy --tp 3", "--pair", "b=toy", "--device", "cpu").startswith("nla-serve: a: --tp 3")
    assert "pair a: no preset" in fails("--pair", "a=x", "--pair", "b=toy")
    assert "unrecognized arguments: --bogus" in fails("--pair", "a=toy --bogus")
