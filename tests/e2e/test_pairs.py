"""Several pairs behind one gateway: two of ours, one of them with its source, and a verbalizer of another machine."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from numpy.typing import NDArray
from playwright.sync_api import expect

from nla_client import NLAClient, NLACritic, NotFoundError
from tests.checkpoints import D_MODEL, LAYER, Pair, make_pair
from tests.e2e.test_data import nla
from tests.errors import error_in
from tests.plain import (
    decode,
    encode,
    extract,
    load_toy_vectors,
    of_engine,
    samples_of,
    texts_of,
    total,
    verbalize,
    wait_for,
)
from tests.reference import ReferenceReconstructor, ReferenceSource, ReferenceVerbalizer
from tests.stack import Stack, free_port, serving, starting, states_of

KEY: Final = {"NLA_ENGINE_KEY": "shared-between-machines"}
MAX_TOKENS: Final = 16
TEXTS: Final = ["The harbour lies behind the old mill.", "日本 and 'quotes' > all"]
ENGINES: Final = {"one verbalizer", "one reconstructor", "one source", "two verbalizer", "two reconstructor",
                  "far verbalizer"}  # fmt: skip


@dataclass(frozen=True)
class Served:
    stack: Stack
    one: Pair
    two: Pair


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder, port = tmp_path_factory.mktemp("pairs"), free_port()
    one, two = make_pair(folder / "one", "llama"), make_pair(folder / "two", "qwen2")
    pairs: dict[str, Any] = {
        "one": {"av": str(one.av), "ar": str(one.ar), "source": str(one.av)},
        "two": {"av": str(two.av), "ar": str(two.ar)},
        "far": {"preset": "toy", "only": "av", "av_url": [f"http://127.0.0.1:{port}"]},
    }
    file = folder / "pairs.yaml"
    file.write_text(yaml.safe_dump(pairs, sort_keys=False))
    far = ("--preset", "toy", "--only", "av", "--engine-listen", f"127.0.0.1:{port}")
    with (
        starting(folder / "far", *far, env=KEY),
        serving(folder / "log", "--pairs", str(file), "--device", "cpu", "--dtype", "float32", env=KEY) as stack,
    ):
        yield Served(stack, one, two)


@pytest.fixture(scope="module")
def vectors() -> NDArray[np.float32]:
    return np.random.default_rng(3).standard_normal((6, D_MODEL)).astype(np.float32)


def refused(stack: Stack, path: str, body: dict[str, Any], status: int) -> str:
    reply = stack.http.post(path, json=body)
    assert reply.status_code == status, reply.text
    return error_in(reply).message


def test_each_equals_transformers_also_all_at_once(served: Served, vectors: NDArray[np.float32]) -> None:
    toy_vectors = load_toy_vectors()[:6]
    asked = {"one": vectors, "two": vectors, "far": toy_vectors}
    known = {"one": served.one.av, "two": served.two.av}
    wanted = {
        name: [text for text, _ in ReferenceVerbalizer(folder).texts(vectors, MAX_TOKENS)]
        for name, folder in known.items()
    }
    assert wanted["one"] != wanted["two"]
    wanted["far"] = texts_of(verbalize(served.stack, toy_vectors, model="far", max_tokens=MAX_TOKENS))
    with ThreadPoolExecutor(12) as threads:
        jobs = [
            (name, index, threads.submit(
                verbalize, served.stack, asked[name][index : index + 1], model=name, max_tokens=MAX_TOKENS
            ))
            for index in range(6)
            for name in asked
        ]  # fmt: skip
        for name, index, job in jobs:
            assert texts_of(job.result()) == [wanted[name][index]], (name, index)
    for name, pair in (("one", served.one), ("two", served.two)):
        body = {"model": name, "texts": TEXTS, "dtype": "float32"}
        reply = served.stack.http.post("/reconstruct", json=body).json()
        for text, data in zip(TEXTS, reply["vectors"], strict=True):
            rebuilt = ReferenceReconstructor(pair.ar).vector(text)
            assert np.linalg.norm(decode(data) - rebuilt) <= 1e-4 * np.linalg.norm(rebuilt)
        assert reply["model"] == pair.ar.name


def test_scores_are_those_of_the_pair_that_is_named(served: Served, vectors: NDArray[np.float32]) -> None:
    http, reference = served.stack.http, ReferenceReconstructor(served.two.ar)
    rebuilt = [reference.vector(text) for text in TEXTS]
    body = {"texts": TEXTS, "vectors": [encode(vector) for vector in vectors[:2]], "dtype": "float32"}
    named, unnamed = (http.post("/critic", json=body | more).json() for more in ({"model": "two"}, {}))
    both = zip(rebuilt, vectors[:2], strict=True)
    cosines = [one @ other / np.linalg.norm(one) / np.linalg.norm(other) for one, other in both]
    assert [result["cosine"] for result in named["results"]] == pytest.approx(cosines, abs=1e-4)
    assert [result["cosine"] for result in unnamed["results"]] != pytest.approx(cosines, abs=1e-4)
    left_out = http.post("/ablate", json=body | {"model": "two"}).json()
    assert [result["score"]["cosine"] for result in left_out["results"]] == pytest.approx(cosines, abs=1e-4)


def test_without_a_name_it_is_the_first(served: Served, vectors: NDArray[np.float32]) -> None:
    named, unnamed = (
        verbalize(served.stack, vectors[:2], max_tokens=MAX_TOKENS, **more) for more in ({"model": "one"}, {})
    )
    assert texts_of(named) == texts_of(unnamed)
    reference = ReferenceSource(served.one.av, LAYER)
    for text, result in zip(TEXTS, extract(served.stack, texts=TEXTS), strict=True):
        np.testing.assert_allclose(result["vectors"][-1], reference.vectors(reference.ids(text))[-1], atol=1e-4)


def test_what_a_pair_has_not(served: Served) -> None:
    assert "pair two has no source" in refused(served.stack, "/extract", {"model": "two", "texts": "a"}, 503)
    assert "pair far has no reconstructor" in refused(served.stack, "/reconstruct", {"model": "far", "texts": "a"}, 503)
    message = refused(served.stack, "/reconstruct", {"model": "three", "texts": "a"}, 404)
    assert message == "no pair 'three' is served here: `model` may be one, two, far"
    own = encode(np.ones(D_MODEL, dtype=np.float32))
    assert "d_model" in refused(served.stack, "/verbalize", {"model": "far", "vectors": own, "dtype": "float32"}, 400)
    refused(served.stack, "/verbalize", {"model": ["one"], "vectors": own}, 400)


def test_what_it_tells_of_them(served: Served) -> None:
    http = served.stack.http
    listed = http.get("/v1/models").json()
    assert listed["object"] == "list"
    assert [(one["id"], one["serves"]) for one in listed["data"]] == [
        ("one", ["av", "ar", "source"]),
        ("two", ["av", "ar"]),
        ("far", ["av"]),
    ]
    assert all(one["object"] == "model" and one["ready"] and one["created"] > 0 for one in listed["data"])
    for one in listed["data"]:
        assert http.get(f"/v1/models/{one['id']}").json() == one
        info = http.get("/v1/info", params={"model": one["id"]}).json()
        assert (info["name"], info["d_model"]) == (one["id"], one["d_model"])
        assert {engine["engine"] for engine in info["engines"]} == {
            label for label in ENGINES if label.startswith(one["id"])
        }
    assert http.get("/v1/info").json()["name"] == "one"
    for path in ("/v1/models/three", "/v1/info?model=three", "/ready?model=three"):
        reply = http.get(path)
        assert (reply.status_code, error_in(reply).param) == (404, "model")
    wait_for(lambda: set(states_of(served.stack)) == ENGINES)
    assert set(http.get("/ready?model=two").json()["engines"]) == {"two verbalizer", "two reconstructor"}


def test_all_is_counted_by_pair(served: Served, vectors: NDArray[np.float32]) -> None:
    def counted(name: str, **labels: str) -> float:
        return total(samples_of(served.stack), name, **labels)

    before = {model: counted("nla_vectors_total", model=model) for model in ("one", "two")}
    tokens = counted("nla_tokens_total", model="two", engine="verbalizer", kind="completion")
    answer = verbalize(served.stack, vectors[:3], model="two", max_tokens=MAX_TOKENS, score=True)
    assert counted("nla_vectors_total", model="two") == before["two"] + 3
    assert counted("nla_vectors_total", model="one") == before["one"]
    grown = counted("nla_tokens_total", model="two", engine="verbalizer", kind="completion") - tokens
    assert grown == answer["usage"]["completion_tokens"]
    assert counted("nla_engine_ready", engine="two verbalizer") == 1
    assert of_engine(served.stack, "two verbalizer", "num_requests") > 0


def test_clients_and_nla_choose_one(served: Served, vectors: NDArray[np.float32], tmp_path: Path) -> None:
    url = served.stack.url
    wanted = [text for text, _ in ReferenceVerbalizer(served.two.av).texts(vectors, MAX_TOKENS)]
    with NLAClient(url, model="two") as two, NLACritic(url, model="two") as critic, NLAClient(url) as first:
        assert [str(one) for one in two.verbalize(vectors, temperature=0, max_tokens=MAX_TOKENS)] == wanted
        assert (two.info().name, first.info().name, critic.info().name) == ("two", "one", "two")
        assert [one.id for one in first.models()] == ["one", "two", "far"]
        assert two.ready()
        rebuilt = critic.reconstruct(TEXTS[0], dtype="float32")
    reference = ReferenceReconstructor(served.two.ar).vector(TEXTS[0])
    assert np.linalg.norm(rebuilt - reference) <= 1e-4 * np.linalg.norm(reference)
    with NLAClient(url, model="three") as none, pytest.raises(NotFoundError, match="may be one, two, far"):
        none.verbalize(vectors)
    given, out = tmp_path / "in.parquet", tmp_path / "out.parquet"
    pq.write_table(pa.table({"activation_vector": list(vectors)}), given)
    flags = ("--temperature", 0, "--max-tokens", MAX_TOKENS, "--progress", "quiet", "--dtype", "float32")
    nla("verbalize", given, out, "--url", url, "--model", "two", *flags)
    assert pq.read_table(out)["explanation"].to_pylist() == wanted
    told = nla("info", "--url", url, "--model", "two")
    assert "one, two, far" in told
    assert served.two.av.name in told
    assert "tokens of a text, at most" in nla("info", "--url", url, "--model", "one")
    # Going on with another pair would mix them; its weights are others, whatever its name.
    nla("verbalize", given, out, "--url", url, *flags, expect=2)


def test_the_page_switches_between_them(open_page: Any, served: Served) -> None:
    page = open_page(served.stack)
    pair = page.get_by_label("pair of models")
    expect(pair).to_have_value("one")
    expect(page.get_by_role("banner")).to_contain_text(f"{served.one.av.name} puts")
    with page.expect_response(lambda one: "quiet" in (one.request.post_data or "")):
        page.get_by_role("textbox", name="Text", exact=True).fill("A quiet harbour.")
    page.get_by_role("spinbutton", name="samples").fill("2")
    page.get_by_role("spinbutton", name="samples").press("Tab")
    pair.select_option("two")
    expect(page.locator("#no-source")).to_be_visible()
    assert "?model=two#" in page.url
    page.get_by_label("pair of models").select_option("one")  # back: what was read is still there
    expect(page.get_by_role("textbox", name="Text", exact=True)).to_have_value("A quiet harbour.")
    expect(page.get_by_role("spinbutton", name="samples")).to_have_value("2")
    expect(page.get_by_role("listbox", name="Tokens").get_by_role("option").first).to_be_visible()
    page.get_by_role("button", name="last", exact=True).click()
    with page.expect_request("**/explain") as asked:
        page.get_by_role("button", name="Explain", exact=True).click()
    assert asked.value.post_data_json["model"] == "one"
    expect(page.get_by_role("region", name="Explanations").get_by_role("article")).to_have_count(1)
    page.get_by_role("button", name="as curl").click()
    expect(page.locator("#command")).to_contain_text('{"model":"one","texts":["A quiet harbour."]')
    page.get_by_role("button", name="as Python").click()
    expect(page.locator("#command")).to_contain_text(f'NLAClient("{served.stack.url}", model="one")')


def test_a_page_of_a_pair_that_is_not_there(open_page: Any, served: Served) -> None:
    page = open_page(served.stack, "/?model=three", complaint="404")
    expect(page.get_by_role("alert").first).to_contain_text("no pair 'three' is served here")
    page.get_by_label("pair of models").select_option("far")
    expect(page.get_by_role("banner")).to_contain_text("toy-verbalizer puts")


def test_one_that_is_gone_leaves_the_others_alone(served: Served, vectors: NDArray[np.float32]) -> None:
    stack = served.stack
    next(one for one in stack.family() if "sglang::one source" in " ".join(one.cmdline())).kill()
    deadline = time.monotonic() + 120
    while states_of(stack).get("one source") in ("ready", None):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert stack.http.get("/ready").status_code == 503
    assert stack.http.get("/ready?model=two").status_code == 200
    models = {one["id"]: one["ready"] for one in stack.http.get("/v1/models").json()["data"]}
    assert models == {"one": False, "two": True, "far": True}
    assert len(texts_of(verbalize(stack, vectors, model="two", max_tokens=MAX_TOKENS))) == len(vectors)
    while stack.http.get("/ready").status_code != 200:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    extract(stack, texts=TEXTS, model="one")
    assert "one source: starts again" in stack.log_text()
