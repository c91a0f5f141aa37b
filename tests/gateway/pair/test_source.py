"""The source's side of the gateway, without an engine."""

import asyncio
import base64
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from nla_client.wire import TokenizeRequest
from nla_gateway.description import Description, SourceDescription
from nla_gateway.engines.engine import decode_rows
from nla_gateway.engines.pool import EnginePool
from nla_gateway.errors import InvalidRequest
from nla_gateway.pair.given import given_texts
from nla_gateway.pair.proof import ProofError, check_plugin
from nla_gateway.pair.source import Source, norms, parts_of, typical_norm
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


def test_long_texts_are_refused_by_name(folder: Path) -> None:
    one = source(folder, context=10)
    assert (one.layer, one.max_tokens) == (LAYER, 9)

    def read(**texts: Any) -> list[SourceText]:
        async def all_of_them() -> list[SourceText]:
            return [text async for text in one.tokenize(given_texts(TokenizeRequest(**texts)), one.max_tokens)]

        return asyncio.run(all_of_them())

    assert len(read(token_ids=[[1] * 9])[0].ids) == 9
    for texts, length in (
        ({"token_ids": [[1] * 9, [1] * 10]}, "10 tokens"),
        ({"texts": ["a", "x y z " * 4]}, r"\d\d tokens"),
        ({"texts": ["a", "x" * 100_000]}, "100000 characters"),
        ({"chats": [[{"role": "user", "content": "x" * 100_000}]]}, "100000 characters"),
    ):
        with pytest.raises(InvalidRequest, match=rf"{length}; at most 9 tokens .* --source-context") as caught:
            read(**texts)
        assert str(caught.value.param).startswith(next(iter(texts)))


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
