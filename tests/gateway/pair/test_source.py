"""The source's side of the gateway, without an engine."""

import asyncio
import base64
import threading
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from nla_client.wire import ChatMessage, Token, TokenizeRequest
from nla_data.asking.source_task import MOST_BYTES
from nla_gateway.description import Description, SourceDescription
from nla_gateway.engines.engine import decode_rows
from nla_gateway.engines.pool import EnginePool
from nla_gateway.errors import InvalidRequest
from nla_gateway.pair.given import GivenText, given_texts
from nla_gateway.pair.proof import ProofError, check_plugin
from nla_gateway.pair.source import FEW, MOST_TOKENIZED, Source, norms, parts_of, typical_norm
from nla_gateway.pair.texts import SourceText
from nla_gateway.roles import Role
from nla_gateway.settings import EngineSettings
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


def test_short_texts_are_read_at_once_and_never_beside_a_long_one(folder: Path) -> None:
    """The tokenizer cannot be shared; and who waits for a thread waits for whatever it is at."""
    one, threads, seen, busy = source(folder), set[str](), 0, False

    def noting(tokenizer: Any) -> SourceText:
        nonlocal seen, busy
        assert not busy
        busy = True
        threads.add(threading.current_thread().name)
        text: SourceText = tokenizer.read_text("a short one", add_special_tokens=True, param=None)
        time.sleep(0.001)
        seen, busy = seen + 1, False
        return text

    async def ask(characters: int) -> list[SourceText]:
        given = [GivenText("texts", noting, characters=characters)]
        return [text async for text in one.tokenize(given, 1000)]

    asyncio.run(ask(11))
    assert threads == {threading.main_thread().name}
    asyncio.run(ask(FEW + 1))
    assert len(threads) == 2

    async def many() -> list[list[SourceText]]:
        return await asyncio.gather(*(ask(characters) for characters in [FEW + 1, 11] * 50))

    assert len({tuple(text.ids) for (text,) in asyncio.run(many())}) == 1
    assert seen == 102


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
