"""The demo pair does what its page says, through the server, and as plain transformers do."""

import re
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from numpy.typing import NDArray

import nla_launch.demo
from nla_launch.demo.evaluate import fve, measure, normed, served
from nla_launch.demo.examples import Examples
from nla_launch.pair.made import made
from tests.plain import decode, encode, verbalize
from tests.reference import ReferenceReconstructor, ReferenceSource, ReferenceVerbalizer
from tests.stack import Stack

FOLDER: Final = Path(str(nla_launch.demo.__file__)).parent
LAYER: Final = 20


@pytest.fixture(scope="module")
def held_out() -> Examples:
    return Examples.load(FOLDER / "vectors.npz")


def test_info_says_what_is_served(demo: Stack) -> None:
    info = demo.http.get("/v1/info").json()
    assert (info["d_model"], info["layer"], info["base_model"]) == (576, 20, "HuggingFaceTB/SmolLM2-135M-Instruct")
    assert info["source"]["warning"] is None


def test_its_page_was_opened(demo: Stack) -> None:
    opened = demo.log.with_name("opened")
    deadline = time.monotonic() + 60
    while not opened.exists() or not opened.read_text():
        assert time.monotonic() < deadline, "nothing was opened"
        time.sleep(0.1)
    assert opened.read_text() == f"{demo.url}\n"


@pytest.mark.timeout(1800)  # 200 texts of a real language model: four minutes of a slow machine's processor
def test_figures_are_those_of_its_page(demo: Stack, held_out: Examples) -> None:
    """Within three standard errors: another machine's rounding may end some texts otherwise."""
    table = re.findall(r"^\| ([^|]+) \| (-?[\d.]+) \|", (FOLDER / "README.md").read_text(), re.MULTILINE)
    told = {name: float(value) for name, value in table}
    with served(demo.url) as (say, ask):

        @cache
        def rebuilt_from(*texts: str) -> NDArray[np.float32]:
            return ask(texts)

        def rebuild(texts: Sequence[str]) -> NDArray[np.float32]:
            return rebuilt_from(*texts)

        said, true = say(held_out.vectors), held_out.explanations.tolist()
        figures = measure(lambda _: said, rebuild, held_out)
        rebuilt = {
            name: normed(rebuild(texts)) for name, texts in (("true explanations", true), ("verbalizer's", said))
        }
    assert figures.keys() == told.keys()
    for name, vectors in rebuilt.items():
        spread = spread_of_fve(vectors, normed(held_out.vectors))
        assert figures[f"fve of the {name}"] == pytest.approx(told[f"fve of the {name}"], abs=3 * spread)
    for name in ("complete", "top-1 of 40", "last word right"):
        share = told[name]
        assert figures[name] == pytest.approx(share, abs=3 * (share * (1 - share) / 200) ** 0.5 + 0.005)
    assert figures["fve, texts shuffled"] < 0


def spread_of_fve(rebuilt: NDArray[np.float32], wanted: NDArray[np.float32]) -> float:
    """Standard error, by resampling rows."""
    rng = np.random.default_rng(0)
    draws = (rng.integers(len(wanted), size=len(wanted)) for _ in range(200))
    return float(np.std([fve(rebuilt[rows], wanted[rows]) for rows in draws]))


def test_what_the_source_reads_is_what_transformers_read(demo: Stack, held_out: Examples) -> None:
    reference = ReferenceSource(made("base"), LAYER)
    texts = held_out.contexts[:6].tolist()
    answer = demo.http.post("/extract", json={"texts": texts, "dtype": "float32"}).json()
    for text, result, stored in zip(texts, answer["results"], held_out.vectors, strict=False):
        wanted = reference.vectors(reference.ids(text))[-1]
        (token,) = result["tokens"]
        for found in (decode(token["vector"]), stored):
            assert np.abs(found - wanted).max() < 1e-4 * np.abs(wanted).max()


def test_greedy_texts_equal_transformers(demo: Stack, held_out: Examples) -> None:
    reference = ReferenceVerbalizer(made("verbalizer"))
    vectors = held_out.vectors[:6]
    samples = [result["samples"][0] for result in verbalize(demo, vectors, max_tokens=80)["results"]]
    expected = reference.texts(vectors, 80)
    assert [(sample["text"], sample["complete"]) for sample in samples] == expected


def test_rebuilt_vectors_equal_transformers(demo: Stack, held_out: Examples) -> None:
    reference = ReferenceReconstructor(made("reconstructor"))
    texts = [*held_out.explanations[:6].tolist(), "", "Something else entirely 🙂"]
    rebuilt = demo.http.post("/reconstruct", json={"texts": texts, "dtype": "float32"}).json()["vectors"]
    for text, vector in zip(texts, rebuilt, strict=True):
        wanted = reference.vector(text)
        assert np.abs(decode(vector) - wanted).max() < 1e-4 * np.abs(wanted).max()


def test_explaining_is_reading_and_then_verbalizing(demo: Stack, held_out: Examples) -> None:
    text = held_out.contexts[0].item()
    body = {"texts": text, "positions": [5, -1], "temperature": 0, "score": True}
    tokens = demo.http.post("/explain", json=body).json()["results"][0]["tokens"]
    read = demo.http.post("/extract", json={"texts": text, "positions": [5, -1], "dtype": "float32"}).json()
    vectors = np.stack([decode(token["vector"]) for token in read["results"][0]["tokens"]])
    told = verbalize(demo, vectors, score=True)["results"]
    assert [token["samples"] for token in tokens] == [result["samples"] for result in told]


CASES: Final[dict[str, Callable[[NDArray[np.float32]], dict[str, Any]]]] = {
    "verbalize": lambda vectors: {"vectors": [encode(vectors[0])], "dtype": "float32"},
    "explain": lambda vectors: {"texts": "Call me Ishmael."},
}


@pytest.mark.parametrize("path", CASES)
def test_its_bodies_work(demo: Stack, held_out: Examples, path: str) -> None:
    """Those beside it, and a call as short as can be."""
    assert demo.http.post(f"/{path}", json=CASES[path](held_out.vectors)).status_code == 200
    body = (FOLDER / f"{path}.json").read_bytes()
    headers = {"content-type": "application/json"}
    assert demo.http.post(f"/{path}", content=body, headers=headers).status_code == 200
