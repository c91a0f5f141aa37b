"""The command line: usage, exit codes, one clear line, the plan."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from nla_launch.cli import main
from nla_launch.flags import build_parser
from nla_launch.pair.preset import known_presets, load_preset
from tests.checkpoints import Pair, edit_sidecar, make_pair
from tests.launch.shapes import pair as shape_of
from tests.stack import free_port

HELP = Path(__file__).parent / "help.txt"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_pair(tmp_path_factory.mktemp("pair"), "qwen2")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nla_launch", *arguments]
    without_key = {**os.environ, "NLA_API_KEY": ""}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=without_key)


def fails(*arguments: str) -> str:
    """Run what must fail as wrong usage; return its one line."""
    done = run(*arguments, "--port", str(free_port()))
    assert done.returncode == 2, done
    assert done.stdout == ""
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("nla-serve: ")
    return lines[0]


def test_help_is_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    assert build_parser().format_help() == HELP.read_text()


def test_version_is_quick_and_plain() -> None:
    done = run("--version")
    assert (done.returncode, done.stdout) == (0, "nla-serve 0.1.0\n")


def test_presets_of_the_contract_are_there() -> None:
    released = ["qwen2.5-7b-l20", "gemma-3-12b-l32", "gemma-3-27b-l41", "llama-3.3-70b-l53"]
    assert known_presets() == sorted(["demo", "toy", "smollm2-135m-l20", *released])
    for name in known_presets():
        assert load_preset(name).name == ("smollm2-135m-l20" if name == "demo" else name)


@pytest.mark.parametrize("name", ["toy", "qwen2.5-7b-l20", "gemma-3-12b-l32", "gemma-3-27b-l41", "llama-3.3-70b-l53"])
def test_dry_run_needs_nothing(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--preset", name, "--dry-run"]) == 0
    plan = capsys.readouterr().out
    for part in (
        "verbalizer",
        "reconstructor",
        "gpus",
        "tp ",
        "memory",
        "command",
        "environment",
        "NLA_ENGINE_ROLE=av",
    ):
        assert part in plan
    assert "<random>" in plan


def test_a_dry_run_tells_what_was_understood(pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rules = {"injection": {"rule": "add_after_block", "block": 1}, "append": "<explanation>"}
    preset = {"name": "own", "av": str(pair.av), "ar": str(pair.ar), "layer": 1, "device": "cpu", "verbalizer": rules}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(preset))
    assert main(["--preset", str(tmp_path / "own.yaml"), "--dry-run"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    for told in (
        "understood d_model 64 (sidecar)",
        "layer 1 (preset)",
        "verbalizer.injection.rule 'add_after_block' (preset)",
        "verbalizer.injection.block 1 (preset)",
        "verbalizer.prompt 'chat' (default)",
        "verbalizer.tags 'closing' (template)",
        "reconstructor.blocks 2 (layer + 1)",
    ):
        assert told.split() in lines
    assert not [line for line in lines if "verbalizer.injection.scale" in line]


def test_a_rule_that_nobody_states_ends_a_dry_run_too(pair: Pair, tmp_path: Path) -> None:
    copied = pair.copy(tmp_path)
    edit_sidecar(copied.av, {"extraction.injection_scale": ...})
    line = fails("--av", str(copied.av), "--ar", str(copied.ar), "--device", "cpu", "--dry-run")
    assert "`verbalizer: {injection: {rule: add_after_block, block: 1}}`" in line


def test_dry_run_of_the_headline_pair(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--tp", "8", "--dry-run"]) == 0
    plan = capsys.readouterr().out
    assert "kitft/Llama-3.3-70B-NLA-L53-av" in plan
    assert "--tp-size 8" in plan
    assert "0, 1, 2, 3, 4, 5, 6, 7" in plan


INVENTORY = "gpus: [{count: 8, name: H100, memory_gb: 80, compute_capability: 9.0}]"


def write_shape(folder: Path, shape: str) -> list[str]:
    """Write a released pair's configs and nothing else; return the flags that name them."""
    flags = []
    for role, target in shape_of(shape).items():
        config = target.config
        assert config is not None
        (folder / role).mkdir()
        (folder / role / "config.json").write_text(
            json.dumps(
                {
                    "architectures": [config.architecture], "model_type": "llama", "hidden_size": config.d_model,
                    "num_hidden_layers": config.blocks, "num_attention_heads": config.heads,
                    "num_key_value_heads": config.kv_heads, "head_dim": config.head_dim,
                    "intermediate_size": config.intermediate, "vocab_size": config.vocabulary,
                    "max_position_embeddings": config.max_positions, "tie_word_embeddings": config.tied,
                }
            )
        )  # fmt: skip
        flags += [f"--{role}", str(folder / role)]
    (folder / "gpus.yaml").write_text(INVENTORY)
    return [*flags, "--inventory", str(folder / "gpus.yaml"), "--dry-run"]


def test_dry_run_for_another_machine(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    flags = write_shape(tmp_path, "llama-3.3-70b-l53")
    assert main([*flags, "--av-gpus", "0-3", "--ar-gpus", "4-5", "--quantization", "fp8"]) == 0
    plan = capsys.readouterr().out
    assert "memory       weights 18.16 GB + KV pool 10.74 GB + overhead 4.97 GB = 33.87 GB a GPU" in plan
    assert "0-3          verbalizer 33.9 GB of 80.0 GB, H100" in plan
    assert "4-5          reconstructor " in plan
    assert "CUDA_VISIBLE_DEVICES=4,5 " in plan
    assert main(flags) == 2
    assert caplog.messages[-1].endswith("of GPU 0 (H100, 5% kept free): use --tp 4")


def test_inventory_is_for_dry_runs() -> None:
    assert "goes with --dry-run alone" in fails("--preset", "qwen2.5-7b-l20", "--inventory", "gpus.yaml")


@pytest.mark.parametrize("text", ["", "a", "1-", "3-1", "0,0", "0-2,1", "-1", "1.5"])
def test_lists_of_gpus(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert build_parser().parse_args(["--gpus", "0-2,6"]).gpus == (0, 1, 2, 6)
    with pytest.raises(SystemExit):
        build_parser().parse_args([f"--gpus={text}"])
    assert "--gpus: must" in capsys.readouterr().err


def test_only_one_engine(pair: Pair, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--only", "ar", "--ar", str(pair.ar), "--device", "cpu", "--dry-run"]) == 0
    plan = capsys.readouterr().out
    assert "verbalizer" not in plan
    assert "NLA_ENGINE_CHECKPOINT" in plan


def test_wrong_flags_are_usage_errors() -> None:
    for arguments in (["--tp", "0"], ["--only", "both"], ["--nonsense"], ["--port", "x"], ["--port", "70000"],
                      ["--allow-origin", "lab.org"]):  # fmt: skip
        done = run(*arguments)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr


def test_swapped_roles(pair: Pair) -> None:
    assert "swapped" in fails("--av", str(pair.ar), "--ar", str(pair.av), "--device", "cpu")


def test_unknown_preset() -> None:
    assert "known are demo, " in fails("--preset", "nope")


def test_nowhere() -> None:
    assert "neither a folder nor a hub repository" in fails("--only", "av", "--av", "/no/such/folder")


def test_tp_that_does_not_divide(pair: Pair) -> None:
    line = fails("--av", str(pair.av), "--ar", str(pair.ar), "--device", "cpu", "--tp", "3")
    assert "use --tp 2" in line


def test_others_need_a_key() -> None:
    assert "give --api-key" in fails("--preset", "toy", "--host", "0.0.0.0")  # noqa: S104


def test_no_gpu(pair: Pair) -> None:
    assert "no CUDA GPU found" in fails("--av", str(pair.av), "--ar", str(pair.ar), "--device", "cuda")
    assert "no CUDA GPU found" in fails()


def test_port_taken(pair: Pair) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = run("--av", str(pair.av), "--ar", str(pair.ar), "--port", port)
    assert done.returncode == 2
    assert f"127.0.0.1:{port}" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: x\nav: a/b\nar: a/c\nwhat: 1\n", "what"),
        ("name: [", "not YAML"),
        ("name: x\n", "av"),
        ("name: x\nav: a/b\nar: a/c\nengine_args: {av: [--port, '1']}", "engine_args: --port: nla-serve chooses"),
        ("name: x\nav: a/b\nar: a/c\nengine_args: {ar: [--sampling-b=flashinfer]}", "takes a seed"),
        ("name: x\nav: a/b\nar: a/c\nengine_args: {av: [--tokenizer-worker-num, '2']}", "API key"),
        ("name: x\nav: a/b\nar: a/c\nengine_args: {av: [--dp, '2']}", "nla-serve's --dp"),
        ("name: x\nav: a/b\nar: a/c\nengine_args: {av: [--base-gpu-id=4]}", "--av-gpus"),
        ("name: x\nav: a/b\nar: a/c\nengine_args: {ar: [--quantization, fp8]}", "nla-serve's flag of that name"),
        ("name: x\nav: a/b\nar: a/c\nengine_args: {ar: [--trust-remote-code]}", "nla-serve's flag of that name"),
        ("name: x\nav: a/b\nar: a/c\nengine_args: {av: [--max-running-requests, '9']}", "--concurrency"),
        ("name: x\nav: a/b\nar: a/c\nengine_args: {both: [--a]}", "engine_args"),
    ],
)
def test_preset_that_does_not_fit(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    assert message in fails("--preset", str(path))


@pytest.mark.parametrize(("only", "other"), [("av", "--ar"), ("ar", "--av"), ("av", "--ar-url")])
def test_what_only_leaves_out_is_not_given(only: str, other: str) -> None:
    assert f"--only {only} serves no" in fails("--preset", "toy", "--only", only, other, "http://127.0.0.1:9")


SLOW_IMPORTS = """
import importlib, sys
try:
    code = importlib.import_module(sys.argv[1]).main(sys.argv[2:])
except SystemExit as end:
    code = end.code
slow = {"torch", "transformers", "sglang", "fastapi", "aiohttp", "pyarrow", "duckdb", "pandas"} & sys.modules.keys()
sys.exit(f"imported: {slow}" if slow else code)
"""


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0, ("nla_launch.cli", "--preset", "toy", "--dry-run")),
        (0, ("nla_launch.cli", "--help")),
        (0, ("nla_data.cli", "--help")),
        (2, ("nla_data.cli", "info", "--url", "http://127.0.0.1:9")),  # nobody is there
    ],
)
def test_what_is_asked_for_at_a_prompt_imports_nothing_slow(code: int, words: tuple[str, ...]) -> None:
    done = subprocess.run([sys.executable, "-c", SLOW_IMPORTS, *words], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert "imported" not in done.stderr


CHECKS = """
import sys
from nla_gateway.roles import Role
from nla_launch.pair.checkpoints import locate
from nla_launch.pair.preflight import check_checkpoints, describe_checkpoints
found = {Role.AV: locate(sys.argv[1], "all")}
check_checkpoints(found, describe_checkpoints(found))
sys.exit("torch" if "torch" in sys.modules else 0)
"""


def test_checkpoints_are_checked_without_torch(pair: Pair) -> None:
    done = subprocess.run([sys.executable, "-c", CHECKS, str(pair.av)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
