"""Pairs of real weights, served on the CPU, equal plain transformers on real activations."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.plain import decode, extract, texts_of, verbalize
from tests.real.activations import PLACES, SENTENCES, activations
from tests.real.conftest import Needed
from tests.real.models import MODELS, Pair, pair_of
from tests.reference import Answer, ReferenceReconstructor, ReferenceVerbalizer
from tests.stack import Stack, serving

pytestmark = pytest.mark.timeout(1200)  # the first test of a pair also makes it, which is slow on a busy machine
MAX_TOKENS: Final = 24
CLEAR: Final = {"float32": 1e-3, "bfloat16": 0.5}
"""Between the two best logits: below it rounding may decide."""
TEXTS: Final = (*SENTENCES, "关于数据库 🙂 < and >\n", "")


class Reference:
    """What plain transformers makes of a pair in float32; each of its models is let go when it has answered."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair

    @cached_property
    def verbalizer(self) -> ReferenceVerbalizer:
        return ReferenceVerbalizer(self.pair.av, self.pair.model.ends)

    @cached_property
    def vectors(self) -> NDArray[np.float32]:
        """Activations [12, d_model]: the verbalizer's weights are the base model's."""
        return activations(self.verbalizer.model, self.verbalizer.tokenizer, self.pair.model.layer)

    @cached_property
    def answers(self) -> list[Answer]:
        return self.verbalizer.answers(self.vectors, MAX_TOKENS)

    @cached_property
    def rebuilt(self) -> list[NDArray[np.float32]]:
        reconstructor = ReferenceReconstructor(self.pair.ar)
        return [reconstructor.vector(text) for text in TEXTS]


@dataclass(frozen=True)
class Served:
    stack: Stack
    reference: Reference
    dtype: str


@pytest.fixture(scope="module", params=MODELS)
def reference(request: pytest.FixtureRequest, needed: Needed) -> Reference:
    model = MODELS[request.param]
    for source in model.sources:
        needed(source)
    return Reference(pair_of(model))


@pytest.fixture(scope="module", params=CLEAR)
def served(
    request: pytest.FixtureRequest, reference: Reference, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    pair, log = reference.pair, tmp_path_factory.mktemp(request.param) / "log"
    flags = ("--av", str(pair.av), "--ar", str(pair.ar), "--source", str(pair.av), "--device", "cpu")
    flags = (*flags, "--dtype", request.param)
    with serving(log, *flags) as stack:
        yield Served(stack, reference, request.param)


def test_activations_equal_a_hook_in_transformers(served: Served) -> None:
    """The verbalizer's weights are the base model's, so that it is its own source."""
    results = extract(served.stack, texts=list(SENTENCES), positions=sorted(PLACES))
    found = np.concatenate([result["vectors"] for result in results])
    wanted = served.reference.vectors.reshape(len(SENTENCES), len(PLACES), -1)[:, np.argsort(PLACES)]
    wanted = wanted.reshape(found.shape)
    lengths = np.linalg.norm(wanted, axis=1)
    if served.dtype == "float32":
        assert (np.linalg.norm(found - wanted, axis=1) / lengths).max() < 1e-4
    cosines = (found * wanted).sum(axis=1) / lengths / np.linalg.norm(found, axis=1)
    assert cosines.min() > 0.999


def test_greedy_texts_equal_transformers(served: Served) -> None:
    reference, margin = served.reference, CLEAR[served.dtype]
    texts, whole = texts_of(verbalize(served.stack, reference.vectors, max_tokens=MAX_TOKENS)), 0
    for text, answer in zip(texts, reference.answers, strict=True):
        ids = answer.clear(margin)
        wanted = reference.verbalizer.text(ids)[0]
        whole += ids == answer.ids
        assert text == wanted if ids == answer.ids else text.startswith(wanted)
    assert whole >= 10 or served.dtype == "bfloat16"


def test_first_tokens_equal_transformers(served: Served) -> None:
    answers = served.reference.answers
    texts = texts_of(verbalize(served.stack, served.reference.vectors, max_tokens=1))
    clear = [at for at, answer in enumerate(answers) if answer.clear(CLEAR[served.dtype])]
    wanted = {at: served.reference.verbalizer.text(answers[at].ids[:1])[0] for at in clear}
    assert {at: texts[at] for at in clear} == wanted
    assert len(clear) >= 6


def test_rebuilt_vectors_equal_transformers(served: Served) -> None:
    reply = served.stack.http.post("/reconstruct", json={"texts": list(TEXTS), "dtype": "float32"}).json()
    for data, wanted in zip(reply["vectors"], served.reference.rebuilt, strict=True):
        found = decode(data)
        difference = np.linalg.norm(found - wanted) / np.linalg.norm(wanted)
        cosine = found @ wanted / np.linalg.norm(found) / np.linalg.norm(wanted)
        assert difference <= 1e-5 if served.dtype == "float32" else cosine >= 0.999
