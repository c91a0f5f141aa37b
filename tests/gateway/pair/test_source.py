"""The source's side of the gateway, without an engine."""

import asyncio
import base64
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Final

import ml_dtypes
import numpy as np
import pytest

from nla_client.wire import ChatMessage, Token, TokenizeRequest
from nla_data.asking.source_task import MOST_BYTES
from nla_gateway.callers import Caller, Exchange, answering
from nla_gateway.description import Description, SourceDescription
from nla_gateway.engines import concurrency
from nla_gateway.engines.calls import parts_of
from nla_gateway.engines.concurrency import Owner
from nla_gateway.engines.engine import Engine, decode_rows
from nla_gateway.engines.pool import EnginePool
from nla_gateway.errors import InvalidRequest
from nla_gateway.pair.given import GivenText, given_texts
from nla_gateway.pair.prompt import load_tokenizer
from nla_gateway.pair.proof import ProofError, check_plugin
from nla_gateway.pair.source import FEW, MOST_TOKENIZED, Source, norms, typical_norm
from nla_gateway.pair.texts import SourceText, SourceTokenizer
from nla_gateway.roles import Role
from nla_gateway.settings import EngineSettings, Share
from nla_gateway.telemetry.metrics import Metrics
from tests.checkpoints import D_MODEL, LAYER, make_pair


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pair(tmp_path_factory.mktemp("pair"), "llama").av


def source(folder: Path, expected_norm: float | None = None, context: int = 64) -> Source:
    rules = SourceDescription(blocks=LAYER + 1)
    settings = EngineSettings(
        urls=("http://127.0.0.1:9",), api_key="k", checkpoint=folder, model="base", dtype="bfloat16",
        context_length=context, max_in_flight=1, shared_in_flight=1,
        description=Description(role=Role.SOURCE, d_model=D_MODEL, layer=LAYER, source=rules),
    )  # fmt: skip
    return Source(EnginePool("source", settings, Metrics()), settings, expected_norm=expected_norm)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_rows_come_as_bytes(dtype: str) -> None:
    rows = np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)
    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.float32
    sent = rows.astype(kind)
    found = decode_rows(base64.b64encode(sent.tobytes()).decode(), dtype, 3)  # type: ignore[arg-type]
    assert found.dtype == np.float32
    assert np.array_equal(found, sent.astype(np.float32))


@pytest.mark.parametrize(("typical", "odd"), [(8.0, False), (20.0, False), (3.0, False), (25.0, True), (2.0, True)])
def test_norms_far_from_the_pairs_are_warned_of(folder: Path, typical: float, odd: bool) -> None:
    one = source(folder, expected_norm=8.0)
    one.note_norm(typical)
    assert one.typical_norm == typical
    assert (one.warning is not None) == odd
    if odd:
        assert "injection_scale is 8" in str(one.warning)


def test_where_no_norm_is_expected_none_is_odd(folder: Path) -> None:
    one = source(folder)
    one.note_norm(1e6)
    assert one.warning is None


def test_usual_places_make_the_typical_norm() -> None:
    rows = np.ones((30, 4), np.float32)
    rows[:10] *= 1000
    assert typical_norm(rows) == 2.0
    assert typical_norm(rows[:3]) == 2000.0
    assert norms(np.full((1, 4), 3e38, np.float32)) == pytest.approx([6e38])


def read(one: Source, most: int, **texts: Any) -> list[SourceText]:
    async def all_of_them() -> list[SourceText]:
        return [text async for text in one.tokenize(given_texts(TokenizeRequest(**texts)), most)]

    return asyncio.run(all_of_them())


def test_long_texts_are_refused_by_name(folder: Path) -> None:
    one = source(folder, context=10)
    assert (one.layer, one.max_tokens) == (LAYER, 9)
    assert len(read(one, 9, token_ids=[[1] * 9])[0].ids) == 9
    for texts, length in (
        ({"token_ids": [[1] * 9, [1] * 10]}, "10 tokens"),
        ({"texts": ["a", "x y z " * 4]}, r"\d\d tokens"),
        ({"texts": ["a", "x" * 100_000]}, "100000 characters"),
        ({"chats": [[{"role": "user", "content": "x" * 100_000}]]}, "100000 characters"),
    ):
        with pytest.raises(InvalidRequest, match=rf"{length}; at most 9 tokens .* --source-context") as caught:
            read(one, 9, **texts)
        assert str(caught.value.param).startswith(next(iter(texts)))
    with pytest.raises(
        InvalidRequest, match=r"at most 8 tokens are taken: shorten it$"
    ):  # as a context changes nothing
        read(one, 8, token_ids=[[1] * 9])


def test_few_words_are_read_at_once_and_more_on_a_thread(folder: Path) -> None:
    one, threads = source(folder), list[str]()

    def noting(tokenizer: Any) -> SourceText:
        threads.append(threading.current_thread().name)
        text: SourceText = tokenizer.read_text("a short one", add_special_tokens=True, param=None)
        return text

    async def ask(characters: int) -> None:
        given = [GivenText("texts", noting, characters=characters)]
        assert len([text async for text in one.tokenize(given, 1000)]) == 1

    asyncio.run(ask(FEW))
    assert threads == [threading.main_thread().name]
    asyncio.run(ask(FEW + 1))
    assert threads[1].startswith("tokenizer")


class Held:
    """Texts that a tokenizer reads when they are let go, and who began to read which."""

    def __init__(self, one: Source) -> None:
        self.source, self.begun, self.gates = one, list[str](), dict[str, threading.Event]()

    def ask(self, who: str, *names: str, characters: int = 20_000) -> asyncio.Task[list[SourceText]]:
        """Have a caller ask for texts of these names in one request."""
        self.gates |= {name: threading.Event() for name in names}
        given = [GivenText("texts", partial(self._read, name), characters=characters) for name in names]

        async def read() -> list[SourceText]:
            with answering(Exchange(CALLERS[who])):
                return [text async for text in self.source.tokenize(given, 10_000)]

        return asyncio.create_task(read())

    def _read(self, name: str, tokenizer: Any) -> SourceText:
        self.begun.append(name)
        assert self.gates[name].wait(60)
        text: SourceText = tokenizer.read_text(f"the text {name}", add_special_tokens=True, param=None)
        return text

    async def until(self, *names: str) -> None:
        """Wait until these are all that was begun."""
        async with asyncio.timeout(60):
            while self.begun != list(names):
                assert self.begun == list(names[: len(self.begun)])
                await asyncio.sleep(0.005)

    def let_go(self, *names: str) -> None:
        for name in names:
            self.gates[name].set()


CALLERS: Final = {name: Caller(name, Share()) for name in ("one", "many")}


def test_anothers_long_texts_are_read_before_the_rest_of_a_crowd(folder: Path) -> None:
    async def work() -> None:
        held = Held(source(folder))
        crowd = [held.ask("many", f"{k} first", f"{k} second") for k in range(4)]
        await held.until("0 first", "1 first")
        other = held.ask("one", "a", "b")
        await asyncio.sleep(0)
        held.let_go("0 first")
        await held.until("0 first", "1 first", "a")
        held.let_go("a")
        await held.until("0 first", "1 first", "a", "2 first")  # then it is theirs again
        held.let_go("1 first")
        await held.until("0 first", "1 first", "a", "2 first", "b")
        held.let_go(*held.gates)
        assert [text.text for text in await other] == ["the text a", "the text b"]
        for k, texts in enumerate(await asyncio.gather(*crowd)):
            assert [text.text for text in texts] == [f"the text {k} first", f"the text {k} second"]

    asyncio.run(work())


def test_short_texts_do_not_wait_for_a_long_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While they come in, long ones are read one at a time, and leave a thread for the next short one."""
    monkeypatch.setattr(concurrency, "SMALL_COMES_AGAIN_S", 600)  # however long the machine stalls

    async def work() -> None:
        held = Held(source(folder))
        long = [held.ask("many", f"long {k}") for k in range(3)]
        await held.until("long 0", "long 1")
        first = held.ask("one", "short 0", characters=FEW + 1)
        await asyncio.sleep(0)
        held.let_go("short 0", "long 0")
        await first
        for k in (1, 2, 3):
            short = held.ask("one", f"short {k}", characters=FEW + 1)
            held.let_go(f"short {k}")
            await short
        await held.until("long 0", "long 1", *(f"short {k}" for k in range(4)))
        held.let_go(*held.gates)
        await asyncio.gather(*long)

    asyncio.run(work())


def test_what_a_tokenizer_was_saved_with_is_set_before_threads_share_it(folder: Path, tmp_path: Path) -> None:
    """Or they would set it beside each other, which a tokenizer at work refuses."""
    saved = load_tokenizer(folder, trust_remote_code=False)
    saved.backend_tokenizer.enable_truncation(4)
    saved.backend_tokenizer.enable_padding(length=50)
    shutil.copytree(folder, tmp_path / "saved")
    saved.backend_tokenizer.save(str(tmp_path / "saved/tokenizer.json"))
    backend = SourceTokenizer.load(tmp_path / "saved").tokenizer.backend_tokenizer
    assert (backend.truncation, backend.padding) == (None, None)


def test_threads_read_texts_and_chats_as_one_does(folder: Path) -> None:
    one, texts = SourceTokenizer.load(folder), [f"{k} a text of some words " * (1 + k * 7 % 90) for k in range(60)]

    def read_all(text: str) -> list[SourceText]:
        plain = one.read_text(text, add_special_tokens=True, param=None)
        ends = {"add_generation_prompt": True, "continue_final_message": False, "chat_template_kwargs": None}
        return [plain, one.read_ids(plain.ids, param=None), one.read_chat(chat(text), param=None, **ends)]

    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(read_all, texts))
    assert together == [read_all(text) for text in texts]


def test_beside_single_texts_many_are_read_in_calls_of_few(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And of few tokens: a long text goes alone."""
    calls = list[list[int]]()

    async def read(self: Engine, batch: list[list[int]], positions: list[list[int]], rid: str) -> tuple[list[Any], int]:
        calls.append([len(ids) for ids in batch])
        await asyncio.sleep(0)
        return [
            np.full((len(where), D_MODEL), len(ids), np.float32) for ids, where in zip(batch, positions, strict=True)
        ], 1

    monkeypatch.setattr(Engine, "read", read)
    monkeypatch.setattr(concurrency, "SMALL_COMES_AGAIN_S", 600)  # however long the machine stalls

    async def work(*lengths: list[int]) -> list[Any]:
        one = source(folder, context=8192)
        one.engines.set_state(one.engines.engines[0], "ready")
        calls.clear()
        requests = (
            one.read([[1] * length for length in some], [[0]] * len(some), Owner(f"{number}", len(some)))
            for number, some in enumerate(lengths)
        )
        return await asyncio.gather(*requests)

    many = [10] * 9 + [900, 20, 8000, 30]
    ((vectors, usage),) = asyncio.run(work(many))
    assert calls == [[10] * 8, [10, 900, 20], [8000, 30]]
    assert (usage.prompt_tokens, [rows[0, 0] for rows in vectors]) == (3, many)
    _, (beside, usage) = asyncio.run(work([5], many))
    assert calls[0] == [5]
    assert sorted(calls[1:]) == sorted([*[[10, 10]] * 4, [10, 900], [20], [8000], [30]])
    assert [rows[0, 0] for rows in beside] == many
    assert usage.prompt_tokens == len(calls) - 1


def chat(content: str) -> list[ChatMessage]:
    return [ChatMessage(role="user", content=content)]


@pytest.mark.parametrize("form", ["texts", "chats"])
def test_no_tokens_are_made_of_a_text_that_is_too_long(
    folder: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    """One takes a kilobyte. Nor is anything after such a text tokenized."""
    one, made = source(folder, context=101), list[int]()

    def make(**fields: Any) -> Token:
        made.append(fields["position"])
        return Token(**fields)

    monkeypatch.setattr("nla_gateway.pair.texts.Token", make)
    short, long = ("a", "a b " * 375) if form == "texts" else (chat("a"), chat("a b " * 375))
    (text,) = read(one, 100, **{form: [short]})
    made.clear()
    message = (
        rf"^{form}\[1\]: the text has \d{{4}} tokens; at most 100 tokens are taken: shorten it, or start the server"
    )
    with pytest.raises(InvalidRequest, match=message) as caught:
        read(one, 100, **{form: [short, *[long] * 6]})
    assert caught.value.param == f"{form}[1]"
    assert made == [token.position for token in text.tokens]


@pytest.mark.parametrize(
    ("blocks", "problem"), [(LAYER + 1, None), (LAYER + 2, "runs 3 blocks, but was meant to run 2")]
)
def test_an_engine_of_another_layer_is_seen(folder: Path, blocks: int, problem: str | None) -> None:
    report = {
        "role": "source",
        "kind": "source",
        "blocks": blocks,
        "dtype": "bfloat16",
        "missing_hooks": [],
        "fingerprint": None,
    }
    info = {"internal_states": [{"nla": report}]}
    with pytest.raises(ProofError, match=problem) if problem else nullcontext():
        check_plugin(source(folder), info)


def test_a_text_of_as_many_bytes_as_nla_data_sends_is_taken_apart(folder: Path) -> None:
    (text,) = read(source(folder), MOST_TOKENIZED, texts=["\U00012000" * (MOST_BYTES // 4)])
    assert MOST_BYTES <= len(text.tokens) <= MOST_TOKENIZED


def test_endless_chats_are_refused() -> None:
    message = {"role": "user", "content": "x"}
    with pytest.raises(InvalidRequest, match="1025 messages; at most 1024"):
        given_texts(TokenizeRequest.model_validate({"chats": [message] * 1025}))


@pytest.mark.parametrize(
    ("lengths", "wanted"),
    [
        ([5] * 10, [range(8), range(8, 10)]),
        ([9000, 5, 5], [range(1), range(1, 3)]),
        ([4000, 4000, 4000], [range(2), range(2, 3)]),
        ([7], [range(1)]),
    ],
)
def test_texts_share_an_engines_call(lengths: list[int], wanted: list[range]) -> None:
    assert [range(len(lengths))[part] for part in parts_of(lengths)] == wanted
