"""With SGLang taking running requests back, and cutting prompts into pieces, the answers stay the same."""

import re
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from tests.checkpoints import D_MODEL, Pair, make_pair, write_preset
from tests.plain import ask_engine, flush_cache, texts_of, verbalize, verbalizer_of, wait_for
from tests.reference import ReferenceVerbalizer
from tests.stack import Stack, detached_verbalizer, serving

MAX_TOKENS = 48
VECTORS = np.random.default_rng(3).standard_normal((12, D_MODEL)).astype(np.float32)
CHUNK = 40
"""Tokens a prefill pass; a prompt has 54, and the vector is the 46th."""


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_pair(tmp_path_factory.mktemp("pair"), "qwen2")


@pytest.fixture(scope="module")
def stack(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("scheduling")
    preset = write_preset(folder / "preset.yaml", pair.av, "--chunked-prefill-size", str(CHUNK), "--log-level", "debug")
    flags = ("--preset", str(preset), "--only", "av", "--log-level", "debug")
    with serving(folder / "log", *flags, env={"SGLANG_TEST_RETRACT": "1"}) as stack:
        yield stack


@pytest.fixture(scope="module")
def expected(pair: Pair) -> list[str]:
    reference = ReferenceVerbalizer(pair.av)
    return [text for text, _ in reference.texts(VECTORS, MAX_TOKENS)]


def test_forced_retraction_changes_nothing(stack: Stack, expected: list[str]) -> None:
    assert texts_of(verbalize(stack, VECTORS, max_tokens=MAX_TOKENS)) == expected
    wait_for(lambda: len(re.findall(r"#retracted_reqs: [1-9]", stack.log_text())) >= 5)


def test_what_is_loaded_is_left_out_of_garbage_collections(stack: Stack) -> None:
    frozen = set(re.findall(r"Freezing GC in (\w+)", stack.log_text()))
    assert frozen == {"Tokenizer", "Scheduler", "Detokenizer"}


def test_prompts_cut_at_the_vector_change_nothing(stack: Stack, expected: list[str]) -> None:
    """With nothing cached, each prompt takes several passes, and the vector stands in any but the first."""
    flush_cache(verbalizer_of(stack))
    before = len(stack.log_text())
    answer = verbalize(stack, VECTORS, max_tokens=MAX_TOKENS)
    assert texts_of(answer) == expected

    def passes() -> list[int]:
        return [int(tokens) for tokens in re.findall(r"#new-token: (\d+)", stack.log_text()[before:])]

    wait_for(lambda: sum(passes()) > len(VECTORS) * CHUNK)
    assert max(passes()) <= CHUNK
    assert f"#new-token: {CHUNK}, #cached-token: 0" in stack.log_text()[before:]


@pytest.mark.parametrize("start", [-1, 0], ids=["of the answer", "of the prompt too"])
def test_logprobs_are_transformers(stack: Stack, pair: Pair, start: int) -> None:
    """The prefix is reused unless its own logprobs are asked for, and either way they are right."""
    reference, vector = ReferenceVerbalizer(pair.av), VECTORS[0]
    prompt, answer = reference.prompt_ids(), reference.greedy(vector, 8)
    logprobs = reference.logits(vector, answer).log_softmax(-1)
    wanted = logprobs[:-1].gather(1, torch.tensor([prompt + answer])[0, 1:, None])[:, 0]

    verbalize(stack, VECTORS[:1], max_tokens=1)  # warms again where the cache was flushed
    engine = verbalizer_of(stack)
    part = detached_verbalizer(engine)
    body = part.payload(part.inject(vector), {"temperature": 0, "max_new_tokens": 8}, f"logprobs{start}.")
    body |= {"return_logprob": True, "logprob_start_len": start}
    meta = ask_engine(engine, "/generate", body).json()["meta_info"]
    assert (meta["cached_tokens"] > 0) is (start == -1)
    assert [token for _, token, _ in meta["output_token_logprobs"]] == answer
    got = meta["output_token_logprobs"]
    if start == 0:  # the first token follows nothing that could predict it
        got = meta["input_token_logprobs"][1:] + got
        assert len(got) == len(wanted)
    np.testing.assert_allclose([logprob for logprob, _, _ in got], wanted[-len(got) :].numpy(), atol=1e-4)
