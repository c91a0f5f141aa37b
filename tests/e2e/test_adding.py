"""Vectors that are added to a block's output give what a hook in transformers gives, however prompts are scheduled."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.checkpoints import D_MODEL, Family, make_pair, write_preset
from tests.plain import flush_cache, texts_of, verbalize, verbalizer_of, wait_for
from tests.reference import AddingVerbalizer
from tests.stack import Stack, serving

MAX_TOKENS = 32
CHUNK = 40
"""Tokens a prefill pass, fewer than a prompt has."""
BLOCK = 1
VECTORS = 50 * np.random.default_rng(5).standard_normal((8, D_MODEL)).astype(np.float32)
RULES = {"injection": {"rule": "add_after_block", "block": BLOCK}}

CASES: dict[str, tuple[Family, tuple[str, ...]]] = {
    "qwen3": ("qwen3", ()),
    "llama-tp2": ("llama", ("--tp", "2")),
    "gemma3": ("gemma3", ()),
    "olmo2": ("olmo2", ()),
}
"""Blocks return their output in three forms: the second two are Gemma's and OLMo's."""


@dataclass(frozen=True)
class Served:
    stack: Stack
    vectors: NDArray[np.float32]
    expected: list[str]


@pytest.fixture(scope="module", params=CASES)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    family, flags = CASES[request.param]
    folder: Path = tmp_path_factory.mktemp(request.param)
    pair = make_pair(folder, family, blocks=5)
    reference = AddingVerbalizer(pair.av, BLOCK)
    clear = list(reference.clear(VECTORS, MAX_TOKENS))
    expected = [reference.text(ids)[0] for _, ids in clear]
    assert len(set(expected)) > 3
    engine = ("--chunked-prefill-size", str(CHUNK), "--log-level", "debug")
    preset = write_preset(folder / "preset.yaml", pair.av, *engine, verbalizer=RULES)
    arguments = ("--preset", str(preset), "--only", "av", "--log-level", "debug", *flags)
    with serving(folder / "log", *arguments, env={"SGLANG_TEST_RETRACT": "1"}) as stack:
        yield Served(stack, np.stack([vector for vector, _ in clear]), expected)


def test_texts_equal_a_hook_in_transformers(served: Served) -> None:
    """With the prompt's start reused, and with running requests taken back."""
    answer = verbalize(served.stack, served.vectors, max_tokens=MAX_TOKENS)
    assert texts_of(answer) == served.expected
    assert answer["usage"]["cached_tokens"] > 0
    wait_for(lambda: len(re.findall(r"#retracted_reqs: [1-9]", served.stack.log_text())) >= 3)


def test_prompts_in_pieces_change_nothing(served: Served) -> None:
    flush_cache(verbalizer_of(served.stack))
    before = len(served.stack.log_text())
    assert texts_of(verbalize(served.stack, served.vectors, max_tokens=MAX_TOKENS)) == served.expected
    wait_for(lambda: f"#new-token: {CHUNK}, #cached-token: 0" in served.stack.log_text()[before:])


def test_the_length_of_a_vector_does_not_matter(served: Served) -> None:
    shorter = served.vectors * np.float32(1e-3)
    assert texts_of(verbalize(served.stack, shorter, max_tokens=MAX_TOKENS)) == served.expected
