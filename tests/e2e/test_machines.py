"""More than one machine, as several nla-serve on loopback: one engine over two, and two engines that share the load."""

import asyncio
import signal
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from tests.checkpoints import D_MODEL, make_pair
from tests.load import Known, Load, until
from tests.plain import decode, of_engine, texts_of, verbalize
from tests.reference import ReferenceReconstructor, ReferenceVerbalizer
from tests.stack import Stack, assert_gone, free_port, kill, serving, start, starting, states_of

MAX_TOKENS = 24
IN_FLIGHT = 12
KEY = {"NLA_ENGINE_KEY": "shared-between-machines"}
AV_ONLY = ("--preset", "toy", "--only", "av")


def test_engines_over_two_machines_equal_transformers(tmp_path: Path) -> None:
    pair = make_pair(tmp_path, "llama")
    flags = ("--av", str(pair.av), "--ar", str(pair.ar), "--device", "cpu", "--dtype", "float32", "--tp", "2")
    flags += ("--nnodes", "2", "--dist-init-addr", f"127.0.0.1:{free_port()}", "--node-rank")
    vectors = np.random.default_rng(5).standard_normal((8, D_MODEL)).astype(np.float32)
    with starting(tmp_path / "one", *flags, "1"), serving(tmp_path / "zero", *flags, "0") as stack:
        reference = ReferenceVerbalizer(pair.av)
        wanted = [text for text, _ in reference.texts(vectors, MAX_TOKENS)]
        assert texts_of(verbalize(stack, vectors, max_tokens=MAX_TOKENS)) == wanted
        reply = stack.http.post("/reconstruct", json={"texts": wanted, "dtype": "float32"}).json()
        for text, data in zip(wanted, reply["vectors"], strict=True):
            rebuilt = ReferenceReconstructor(pair.ar).vector(text)
            assert np.linalg.norm(decode(data) - rebuilt) <= 1e-4 * np.linalg.norm(rebuilt)


def test_two_engines_elsewhere_share_the_load_and_one_may_die_or_be_drained(
    tmp_path: Path, toy_vectors: NDArray[np.float32]
) -> None:
    ports = [free_port(), free_port()]
    listen = [("--engine-listen", f"127.0.0.1:{port}") for port in ports]
    urls = [flag for port in ports for flag in ("--av-url", f"http://127.0.0.1:{port}")]
    mortal = start(tmp_path / "mortal", *AV_ONLY, *listen[0], env=KEY)
    try:
        with (
            starting(tmp_path / "other", *AV_ONLY, *listen[1], env=KEY) as other,
            serving(tmp_path / "log", *AV_ONLY, *urls, env=KEY) as stack,
        ):
            mortal.wait_ready()
            other.wait_ready()
            asyncio.run(until(lambda: set(states_of(stack).values()) == {"ready"}, 240))
            load = Load(stack, Known.of(stack, toy_vectors), IN_FLIGHT)

            async def run() -> None:
                async with load.running():
                    await asyncio.sleep(3)
                    family = mortal.family()
                    mortal.process.kill()
                    await until(lambda: states_of(stack).get("verbalizer 1") == "restarting", 240)
                    assert stack.http.get("/ready").status_code == 200
                    assert_gone(family)
                    await asyncio.sleep(3)
                    again = start(tmp_path / "again", *AV_ONLY, *listen[0], env=KEY)
                    try:
                        await until(lambda: states_of(stack).get("verbalizer 1") == "ready", 240)
                        before = answered(stack)
                        await until(lambda: all(now > before[engine] for engine, now in answered(stack).items()), 240)
                        # As a machine is drained: what is in flight there goes to the other one, too.
                        assert await asyncio.to_thread(again.stop, signal.SIGTERM) == 0
                        await until(lambda: states_of(stack).get("verbalizer 1") == "restarting", 240)
                    finally:
                        kill(again)

            asyncio.run(run())
            assert set(load.outcomes) == {"right"}, (load.outcomes, load.examples)
    finally:
        kill(mortal)


def test_other_weights_elsewhere_are_refused_and_those_that_are_only_there_are_told(tmp_path: Path) -> None:
    pair, port = make_pair(tmp_path / "pair", "llama"), free_port()
    trained, bare = pair.copy(tmp_path / "trained"), pair.copy(tmp_path / "bare")
    tensors = load_file(weights := trained.av / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"] *= 1.001
    save_file(tensors, weights, {"format": "pt"})
    (bare.av / "model.safetensors").unlink()
    flags = ("--only", "av", "--device", "cpu", "--av")
    listen, url = ("--engine-listen", f"127.0.0.1:{port}"), ("--av-url", f"http://127.0.0.1:{port}")
    with serving(tmp_path / "engine", *flags, str(trained.av), *listen, env=KEY) as engine:
        with starting(tmp_path / "refused", *flags, str(pair.av), *url, env=KEY) as stack:
            asyncio.run(until(lambda: states_of(stack) == {"verbalizer": "failed"}, 240))
            said = f"the verbalizer failed its self-test: the engine serves another checkpoint than {pair.av}"
            asyncio.run(until(lambda: said in stack.log_text(), 60))
            here = fingerprint_of(stack)
        with serving(tmp_path / "told", *flags, str(bare.av), *url, env=KEY) as stack:
            assert fingerprint_of(stack) == fingerprint_of(engine) != here


def fingerprint_of(stack: Stack) -> str:
    told: str = stack.http.get("/v1/info").raise_for_status().json()["verbalizer"]["fingerprint"]
    assert len(told) == 64
    return told


def answered(stack: Stack) -> dict[str, float]:
    """Requests that each engine has answered, by its own count."""
    return {label: of_engine(stack, label, "num_requests") for label in ("verbalizer 1", "verbalizer 2")}
