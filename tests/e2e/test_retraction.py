"""With SGLang taking running requests back and starting them again, the answers stay the same."""

import re
from pathlib import Path

import numpy as np

from tests.checkpoints import D_MODEL, make_pair
from tests.plain import texts_of, verbalize
from tests.reference import ReferenceVerbalizer
from tests.stack import serving

MAX_TOKENS = 48


def test_forced_retraction_changes_nothing(tmp_path: Path) -> None:
    pair = make_pair(tmp_path, "qwen2")
    vectors = np.random.default_rng(3).standard_normal((12, D_MODEL)).astype(np.float32)
    reference = ReferenceVerbalizer(pair.av)
    expected = [reference.text(reference.greedy(vector, MAX_TOKENS))[0] for vector in vectors]
    flags = ("--only", "av", "--av", str(pair.av), "--device", "cpu", "--log-level", "debug")
    with serving(tmp_path / "log", *flags, env={"SGLANG_TEST_RETRACT": "1"}) as stack:
        assert texts_of(verbalize(stack, vectors, max_tokens=MAX_TOKENS)) == expected
        retractions = re.findall(r"#retracted_reqs: [1-9]", stack.log_text())
        assert len(retractions) >= 5, stack.log_text()[-3000:]
