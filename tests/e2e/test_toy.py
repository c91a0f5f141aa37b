"""The toy pair does what its page says, through the server: concepts named, vectors rebuilt."""

import asyncio
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nla_client.wire import VerbalizeRequest
from nla_gateway.engines.pool import EnginePool
from nla_gateway.pair.parsing import CLOSING, THINK, Form
from nla_gateway.pair.proof import prove
from nla_gateway.pair.verbalizer import Verbalizer, sampling
from nla_gateway.roles import Role
from nla_gateway.settings import Settings
from nla_gateway.telemetry.metrics import Metrics
from nla_launch.toy.data import named
from tests.benchmarks.figures import at_once
from tests.plain import TOY, ask_engine, decode, encode, texts_of, verbalize, verbalizer_of
from tests.reference import ReferenceReconstructor, ReferenceVerbalizer
from tests.stack import Stack, detached_verbalizer, serving


def test_round_trip_on_held_out_vectors(toy: Stack, toy_vectors: NDArray[np.float32]) -> None:
    with np.load(TOY / "vectors.npz") as stored:
        concepts = [set(names.split(", ")) for names in stored["concepts"]]
    results = verbalize(toy, toy_vectors, n=4, temperature=1.0, score=True, seed=1)["results"]
    samples = [(sample, wanted) for r, wanted in zip(results, concepts, strict=True) for sample in r["samples"]]
    assert np.mean([sample["score"]["cosine"] for sample, _ in samples]) >= 0.85
    assert np.mean([sample["score"]["fve"] for sample, _ in samples]) >= 0.7
    assert np.mean([named(sample["text"]) == wanted for sample, wanted in samples]) >= 0.9


def test_shuffled_texts_explain_nothing(toy: Stack, toy_vectors: NDArray[np.float32]) -> None:
    texts = texts_of(verbalize(toy, toy_vectors))
    body = {"texts": texts[1:] + texts[:1], "vectors": [encode(v) for v in toy_vectors], "dtype": "float32"}
    results = toy.http.post("/critic", json=body).json()["results"]
    assert np.mean([result["fve"] for result in results]) <= 0


def test_greedy_texts_equal_transformers_and_end_at_the_tag(toy: Stack, toy_vectors: NDArray[np.float32]) -> None:
    reference = ReferenceVerbalizer(TOY / "verbalizer")
    expected = reference.texts(toy_vectors[:12], 60)
    samples = [r["samples"][0] for r in verbalize(toy, toy_vectors[:12], max_tokens=60)["results"]]
    assert [(sample["text"], sample["complete"]) for sample in samples] == expected
    assert all(sample["complete"] for sample in samples)


def test_an_engine_stops_at_the_tag_unless_it_stands_in_a_thought(toy: Stack, toy_vectors: NDArray[np.float32]) -> None:
    """SGLang looks for the patterns in all of an answer, and takes them as they are."""
    part = detached_verbalizer(verbalizer_of(toy))
    call = VerbalizeRequest(vectors="", temperature=0, max_tokens=60)

    def asked(form: Form) -> tuple[str, str, list[str]]:
        payload = part.payload(part.inject(toy_vectors[0]), sampling(call, 0, form), f"test.{form.thinks}")
        answer = ask_engine(part.settings, "/generate", payload).json()
        reason = answer["meta_info"]["finish_reason"]
        return answer["text"], reason["type"], [reason.get("matched")]

    text, kind, matched = asked(Form())
    assert (kind, matched) == ("stop", [CLOSING])
    assert asked(Form(may_think=THINK))[:2] == (text, "stop")
    thought = asked(Form(thinks=THINK))
    assert thought[0].startswith(text)
    assert not any(isinstance(one, str) for one in thought[2])
    assert "Got unhandled regex token" not in toy.log.read_text()


def test_bfloat16_as_on_gpus(tmp_path: Path, toy_vectors: NDArray[np.float32]) -> None:
    """The dtype that GPUs use: the same concepts, and vectors within what bfloat16 itself costs."""
    with np.load(TOY / "vectors.npz") as stored:
        concepts = [set(names.split(", ")) for names in stored["concepts"]]
    reference = ReferenceReconstructor(TOY / "reconstructor")
    with serving(tmp_path / "log", "--preset", "toy", "--dtype", "bfloat16", "--workers", "4") as stack:
        assert stack.http.get("/v1/info").json()["verbalizer"]["checkpoint_dtype"] == "bfloat16"
        texts = texts_of(verbalize(stack, toy_vectors))
        assert np.mean([named(text) == wanted for text, wanted in zip(texts, concepts, strict=True)]) >= 0.9
        reply = stack.http.post("/reconstruct", json={"texts": texts[:8], "dtype": "float32"}).json()
        for text, data in zip(texts, map(decode, reply["vectors"]), strict=False):
            wanted = reference.vector(text)
            assert np.linalg.norm(data - wanted) <= 0.03 * np.linalg.norm(wanted)
        assert "is tested again" not in stack.log_text()
        asyncio.run(prove_often(stack.settings(), times=50, limit=4))


async def prove_often(settings: Settings, times: int, limit: int) -> None:
    """Run the verbalizer's self-test again and again, as that many gateways do at their start."""
    engine_settings = settings.pairs[0].engines[Role.AV]
    async with EnginePool(Role.AV.label, engine_settings, Metrics()).open() as pool:
        verbalizer, engine = Verbalizer(pool, engine_settings), pool.engines[0]
        info = await engine.server_info()
        await at_once(limit, [partial(prove, verbalizer, engine, info)] * times)


def test_the_files_are_small() -> None:
    size = sum(path.stat().st_size for path in TOY.rglob("*") if path.is_file())
    assert size <= 10 * 2**20
