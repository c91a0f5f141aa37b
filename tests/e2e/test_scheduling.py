"""With SGLang taking running requests back, and cutting prompts into pieces, the answers stay the same."""

import re
from collections.abc import Iterator

import numpy as np
import pytest
import yaml

from tests.checkpoints import D_MODEL, Pair, make_pair
from tests.plain import flush_cache, texts_of, verbalize, verbalizer_of
from tests.reference import ReferenceVerbalizer
from tests.stack import Stack, serving

MAX_TOKENS = 48
VECTORS = np.random.default_rng(3).standard_normal((12, D_MODEL)).astype(np.float32)
CHUNK = 40
"""Tokens a prefill pass; a prompt has 116, and 19 of them after a reused prefix."""


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_pair(tmp_path_factory.mktemp("pair"), "qwen2")


@pytest.fixture(scope="module")
def stack(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("scheduling")
    preset = {"name": "cut", "av": str(pair.av), "ar": None, "device": "cpu",
              "engine_args": {"av": ["--chunked-prefill-size", str(CHUNK)]}}  # fmt: skip
    (folder / "preset.yaml").write_text(yaml.safe_dump(preset))
    flags = ("--preset", str(folder / "preset.yaml"), "--only", "av", "--log-level", "debug")
    with serving(folder / "log", *flags, env={"SGLANG_TEST_RETRACT": "1"}) as stack:
        yield stack


@pytest.fixture(scope="module")
def expected(pair: Pair) -> list[str]:
    reference = ReferenceVerbalizer(pair.av)
    return [reference.text(reference.greedy(vector, MAX_TOKENS))[0] for vector in VECTORS]


def test_forced_retraction_changes_nothing(stack: Stack, expected: list[str]) -> None:
    assert texts_of(verbalize(stack, VECTORS, max_tokens=MAX_TOKENS)) == expected
    retractions = re.findall(r"#retracted_reqs: [1-9]", stack.log_text())
    assert len(retractions) >= 5, stack.log_text()[-3000:]


def test_prompts_cut_at_the_vector_change_nothing(stack: Stack, expected: list[str]) -> None:
    """With nothing cached, each prompt takes several passes, and the vector stands in any but the first."""
    flush_cache(verbalizer_of(stack))
    before = len(stack.log_text())
    answer = verbalize(stack, VECTORS, max_tokens=MAX_TOKENS)
    assert texts_of(answer) == expected
    passes = [int(tokens) for tokens in re.findall(r"#new-token: (\d+)", stack.log_text()[before:])]
    assert max(passes) <= CHUNK
    assert sum(passes) > len(VECTORS) * CHUNK
