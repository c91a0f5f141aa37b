"""Every family and way of running equals plain transformers."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import pytest

from tests.checkpoints import D_MODEL, LAYER, Family, Pair, make_pair
from tests.hub import running
from tests.plain import assert_rebuilt, encode, extract, texts_of, verbalize
from tests.reference import ReferenceReconstructor, ReferenceSource, ReferenceVerbalizer, score
from tests.stack import Stack, serving

MAX_TOKENS = 24
TEXTS = ("A short text.", "no full stop", "日本 and 'quotes' > all\nkinds", "", "word " * 60)
VECTORS = np.random.default_rng(11).standard_normal((240, D_MODEL)).astype(np.float32)


TP2 = ("--tp", "2")
pytestmark = pytest.mark.timeout(1800)  # several processes a case, on as few cores as there are


@dataclass(frozen=True)
class Case:
    family: Family
    make: dict[str, bool] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    together: int = 8
    """Vectors that are sent at once."""
    hub: bool = False
    """Whether all comes from a hub."""


CASES = {
    "qwen2": Case("qwen2", together=200),
    "llama-sharded-dp2-hub": Case("llama", {"sharded": True}, ("--dp", "2"), together=24, hub=True),
    "gemma3": Case("gemma3", together=24),
    "gemma3-multimodal": Case("gemma3", {"multimodal": True}),
    "qwen2-tp2": Case("qwen2", flags=TP2, together=24),
    "gemma3-tp2": Case("gemma3", flags=TP2),
    "qwen3": Case("qwen3"),
    "qwen3-moe": Case("qwen3_moe"),
    "mistral": Case("mistral"),
    "phi3": Case("phi3"),
    "gemma2": Case("gemma2"),
    "olmo2": Case("olmo2"),
    "glm4": Case("glm4"),
    "qwen3-moe-tp2": Case("qwen3_moe", flags=TP2),
    "olmo2-tp2": Case("olmo2", flags=TP2),
}


@dataclass(frozen=True)
class Served:
    pair: Pair
    stack: Stack
    case: Case
    commit: str | None
    """Of all its repositories."""


@pytest.fixture(scope="module", params=CASES)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    case = CASES[request.param]
    folder = tmp_path_factory.mktemp(request.param) / "pair"
    folder.mkdir()
    pair = make_pair(folder, case.family, **case.make)
    av, ar = ("owner/pair:verbalizer", "owner/pair:reconstructor") if case.hub else (str(pair.av), str(pair.ar))
    flags = ("--av", av, "--ar", ar, "--device", "cpu", "--dtype", "float32", *case.flags)
    flags = ("--source", av, *flags)  # any model of the pair's form is good enough to be read
    with running({"owner/pair": folder}) as hub:
        commit, env = hub.commit("owner/pair"), {"HF_ENDPOINT": hub.url, "HF_HOME": str(folder.parent / "home")}
        # Where the hub is, its client reads when it is imported.
        with serving(folder.parent / "log", *flags, env=env, warm=not case.hub) as stack:
            yield Served(pair, stack, case, commit if case.hub else None)
        assert bool(hub.asked) is case.hub


def test_the_commit_is_told(served: Served) -> None:
    info = served.stack.http.get("/v1/info").json()
    assert [info[part]["revision"] for part in ("verbalizer", "reconstructor", "source")] == [served.commit] * 3


def test_greedy_text_equals_transformers(served: Served) -> None:
    reference = ReferenceVerbalizer(served.pair.av)
    vectors = VECTORS[:8]
    answer = verbalize(served.stack, vectors, max_tokens=MAX_TOKENS)
    ids = [said.ids for said in reference.answers(vectors, MAX_TOKENS)]
    samples = [result["samples"][0] for result in answer["results"]]
    assert [(s["text"], s["complete"]) for s in samples] == [reference.text(tokens) for tokens in ids]
    assert answer["usage"]["completion_tokens"] == sum(len(tokens) for tokens in ids)
    prompt = reference.prompt_ids()
    assert answer["usage"]["prompt_tokens"] == len(vectors) * len(prompt)
    # Everything before the marker was reused, and nothing more.
    before = prompt.index(reference.sidecar["tokens"]["injection_token_id"])
    assert answer["usage"]["cached_tokens"] == len(vectors) * before
    assert len({sample["text"] for sample in samples}) > 4


def test_reconstruction_equals_transformers(served: Served) -> None:
    reference = ReferenceReconstructor(served.pair.ar)
    assert_rebuilt(served.stack, TEXTS, reference.vector)


def test_extraction_equals_transformers(served: Served) -> None:
    reference = ReferenceSource(served.pair.av, LAYER)
    texts = [text for text in TEXTS if text]
    for text, result in zip(texts, extract(served.stack, texts=texts, positions="all"), strict=True):
        ids = reference.ids(text)
        assert [token["id"] for token in result["tokens"]] == ids
        assert np.abs(result["vectors"] - reference.vectors(ids)).max() < 1e-4
    # A place's vector is the same alone as among others.
    whole = extract(served.stack, texts=texts[-1], positions="all")[0]["vectors"]
    some = extract(served.stack, texts=texts[-1], positions=[0, len(whole) // 2, -1])[0]["vectors"]
    assert np.abs(some - whole[[0, len(whole) // 2, -1]]).max() < 1e-4


def test_explanations_equal_transformers(served: Served) -> None:
    source, reference = ReferenceSource(served.pair.av, LAYER), ReferenceVerbalizer(served.pair.av)
    chat = [{"role": "user", "content": "Tell me of bread."}, {"role": "assistant", "content": "It is baked."}]
    body = {"chats": chat, "positions": "all", "temperature": 0, "max_tokens": MAX_TOKENS}
    (result,) = served.stack.http.post("/explain", json=body).raise_for_status().json()["results"]
    ids = source.chat_ids(chat)
    assert [token["id"] for token in result["tokens"]] == ids
    compared = 0
    vectors = source.vectors(ids)
    for token, vector, wanted in zip(result["tokens"], vectors, reference.answers(vectors, MAX_TOKENS), strict=True):
        assert token["norm"] == pytest.approx(float(np.linalg.norm(vector)), rel=1e-4)
        if wanted.gap > 1e-3:
            assert token["samples"][0]["text"] == reference.text(wanted.ids)[0]
            compared += 1
    assert compared > 2


def test_critic_equals_the_formula(served: Served) -> None:
    reference = ReferenceReconstructor(served.pair.ar)
    vectors = VECTORS[: len(TEXTS)]
    body = {"texts": list(TEXTS), "vectors": [encode(v) for v in vectors], "dtype": "float32"}
    reply = served.stack.http.post("/critic", json=body).json()
    for text, vector, result in zip(TEXTS, vectors, reply["results"], strict=True):
        mse, cosine, _ = score(vector, reference.vector(text), None)
        assert result["mse"] == pytest.approx(mse, abs=1e-5)
        assert result["cosine"] == pytest.approx(cosine, abs=1e-5)
        assert result["fve"] is None


def test_many_at_once_get_their_own_answers(served: Served) -> None:
    count = served.case.together
    reference = ReferenceVerbalizer(served.pair.av)
    vectors, wanted = zip(*islice(reference.clear(VECTORS, MAX_TOKENS), count), strict=True)
    assert len(vectors) == count

    def ask(vector: Any) -> str:
        return texts_of(verbalize(served.stack, vector[None], max_tokens=MAX_TOKENS))[0]

    with ThreadPoolExecutor(count) as pool:
        together = list(pool.map(ask, vectors))
    assert together == [reference.text(ids)[0] for ids in wanted]
    assert len(set(together)) > count // 2
