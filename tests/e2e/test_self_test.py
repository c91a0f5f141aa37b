"""An engine in which injection does not work never becomes ready, and nla-serve says why and ends."""

import contextlib
import json
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from nla_gateway.roles import Role
from tests.checkpoints import edit_sidecar, make_pair, write_preset
from tests.plain import assert_rebuilt
from tests.reference import ReferenceReconstructor
from tests.stack import Stack, assert_gone, assert_port_free, kill, scheduler_of, serving, start


def run_to_failure(tmp_path: Path, *flags: str, env: dict[str, str] | None = None) -> str:
    stack = start(tmp_path / "log", *flags, "--device", "cpu", env=env)
    try:
        code = stack.process.wait(400)
        assert stack.process.stdout is not None
        assert stack.process.stdout.read() == ""
        assert code == 1, stack.log_text()[-3000:]
        assert_port_free(stack.port)
    finally:
        kill(stack)
    return stack.log_text()


def eventually(stack: Stack, find: Callable[[], psutil.Process]) -> psutil.Process:
    """The process that `find` finds as soon as there is one."""
    while True:
        assert stack.process.poll() is None, stack.log_text()
        with contextlib.suppress(StopIteration, psutil.NoSuchProcess):
            return find()
        time.sleep(0.05)


def test_plugin_disabled(tmp_path: Path) -> None:
    pair = make_pair(tmp_path, "qwen2")
    log = run_to_failure(tmp_path, "--only", "av", "--av", str(pair.av), env={"SGLANG_PLUGINS": "another"})
    assert "nla-serve: the verbalizer failed its self-test: the engine runs without our plugin" in log


def test_vectors_that_vanish(tmp_path: Path) -> None:
    pair = make_pair(tmp_path, "qwen2")
    edit_sidecar(pair.av, {"extraction.injection_scale": 1e-30})
    log = run_to_failure(tmp_path, "--only", "av", "--av", str(pair.av))
    assert "two different vectors give the same logits: check the injection's rule and scale" in log


def test_an_untried_architecture_that_computes_as_transformers_does(tmp_path: Path) -> None:
    pair = make_pair(tmp_path, "granite")
    flags = ("--av", str(pair.av), "--ar", str(pair.ar), "--device", "cpu", "--dtype", "float32")
    with serving(tmp_path / "log", *flags) as stack:
        log, told = stack.log_text(), stack.settings().pairs[0].engines
        assert_rebuilt(stack, ("A short text.", "another"), ReferenceReconstructor(pair.ar).vector)
    for role, engine in told.items():
        assert engine.expected is not None
        assert f"{role.label}: transformers computes on the CPU what its self-test is to find" in log
    assert log.count("architecture GraniteForCausalLM was never tried") == 2


def test_an_untried_architecture_that_computes_otherwise(tmp_path: Path) -> None:
    """SGLang's StableLM knows one activation alone, and says nothing of another in config.json."""
    pair = make_pair(tmp_path, "stablelm")
    path = pair.ar / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "hidden_act": "gelu"}))
    log = run_to_failure(tmp_path, "--only", "ar", "--ar", str(pair.ar))
    assert "the reconstructor failed its self-test: it gives another vector than transformers does" in log


def test_an_untried_architecture_whose_blocks_are_of_another_form(tmp_path: Path) -> None:
    """Those of SGLang's StableLM return a residual that their output has in it already: a vector is added wrongly."""
    pair = make_pair(tmp_path, "stablelm")
    preset = write_preset(
        tmp_path / "adding.yaml", pair.av, verbalizer={"injection": {"rule": "add_after_block", "block": 1}}
    )
    log = run_to_failure(tmp_path, "--preset", str(preset), "--only", "av")
    assert "the verbalizer failed its self-test: with a vector in its prompt it finds other tokens likely" in log


def test_an_engine_that_dies_before_all_are_ready_ends_the_service(tmp_path: Path) -> None:
    pair = make_pair(tmp_path, "qwen2")
    stack = start(tmp_path / "log", "--only", "ar", "--ar", str(pair.ar), "--device", "cpu")
    try:
        gateway = eventually(stack, stack.gateway)
        gateway.suspend()  # so that nothing is ready before the scheduler dies, however slow this test is
        scheduler = eventually(stack, lambda: scheduler_of(stack, Role.AR))
        family = stack.family()
        scheduler.kill()
        gateway.resume()
        assert stack.process.wait(60) == 1
        assert_gone(family)
        assert_port_free(stack.port)
    finally:
        kill(stack)
    assert "the reconstructor" in stack.log_text()
    assert "its last lines:" in stack.log_text()
