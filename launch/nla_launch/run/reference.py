"""For an architecture that was never run: what transformers makes of one prompt, for the self-test to compare.

Computed in a process of its own, which is gone with its model before any engine loads. Nothing of it is needed for a
start: where it cannot be had, the log says why.
"""

import json
import logging
import os
import subprocess
import sys
from typing import Any, Final, assert_never

import numpy as np

from nla_gateway.description import ADD
from nla_gateway.errors import CheckpointError
from nla_gateway.pair.injection import rescale
from nla_gateway.pair.prompt import ReconstructorPrompt, VerbalizerPrompt
from nla_gateway.pair.texts import SourceTokenizer
from nla_gateway.roles import Role
from nla_gateway.settings import Expected
from nla_launch.errors import LaunchError
from nla_launch.pair.architectures import is_untried
from nla_launch.plan.plan import EnginePlan
from nla_launch.plan.served import told
from nla_launch.run.parent import die_with_parent

logger = logging.getLogger(__name__)

COMPUTER: Final = "nla_engine.reference"
"""Asked in a process of its own: nothing of ours imports the engine."""
LARGEST: Final = 2_000_000_000
"""Parameters, in float32 on the CPU: 8 GB, and a minute at most."""
LIMIT_S: Final = 600.0
TEXT: Final = (
    "A short report from a harbour town: the fish market closed early on Monday, after prices had fallen for the third"
    " week. The mayor, who had promised new jobs, said that the ferries would run again in spring."
)
"""Some dozens of tokens, for errors of positions grow with the distance."""
FORCED_TOKENS: Final = 8
"""Tokens behind a verbalizer's prompt, the first of the prompt again: any do."""


def expected_of(plan: EnginePlan) -> Expected | None:
    """Compute what an engine's self-test is to find; None where its architecture is known, or it cannot be.

    Raises:
        LaunchError: its description and its tokenizer disagree.
    """
    if plan.config is None or not is_untried(plan.config.architecture):
        return None
    try:
        if plan.quantization is not None:
            raise _NoReferenceError("it is quantized")
        if plan.config.parameters > LARGEST:
            raise _NoReferenceError(f"it has more than {LARGEST:,} parameters")
        logger.info("%s: transformers computes on the CPU what its self-test is to find", plan.label)
        return _expected(_asked(plan))
    except CheckpointError as error:
        raise LaunchError(str(error)) from None
    except _NoReferenceError as error:
        logger.warning("%s: its self-test does not compare it with transformers: %s", plan.label, error)
        return None


class _NoReferenceError(Exception):
    """There is none; the text says why."""


def _expected(asked: dict[str, Any]) -> Expected:
    """Have it computed."""
    try:
        run = subprocess.run(  # noqa: S603 - our own
            [sys.executable, "-P", "-m", COMPUTER],
            input=json.dumps(asked),
            capture_output=True,
            text=True,
            check=False,
            timeout=LIMIT_S,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "TRANSFORMERS_VERBOSITY": "error"},
            preexec_fn=die_with_parent,
        )
    except subprocess.TimeoutExpired:
        raise _NoReferenceError(f"transformers takes more than {LIMIT_S:.0f} s") from None
    lines = run.stdout.strip().splitlines()
    if run.returncode:
        raise _NoReferenceError(lines[-1] if lines else " ".join(run.stderr.split())[-300:] or f"{COMPUTER} was ended")
    return Expected(**{"ids": asked["ids"], "vector": asked.get("vector"), **json.loads(lines[-1])})


def _asked(plan: EnginePlan) -> dict[str, Any]:
    """Form what the process is to compute."""
    one, config, description = plan.checkpoint, plan.config, plan.description
    if config is None or description is None:
        raise RuntimeError(f"{plan.label}: nothing is known of it")
    asked = {
        "role": plan.role.value,
        "folder": str(one.model_path),
        "changed": dict(config.changed),
        "trust_remote_code": plan.trust_remote_code,
        "served": told(config, one, description),
    }
    trust, tokens_of = plan.trust_remote_code, one.tokenizer_folder
    match plan.role:
        case Role.AV:
            prompt = VerbalizerPrompt.load(one.model_path, description, tokens_of=tokens_of, trust_remote_code=trust)
            rule = description.of_verbalizer().injection
            vector = np.random.default_rng(0).standard_normal(description.d_model).astype(np.float32)
            scaled = rescale(vector, 1.0 if rule.rule == ADD else rule.scale)
            ids = [*prompt.ids, *prompt.ids[:FORCED_TOKENS]]
            place = {"position": prompt.position, "vector": scaled.tolist(), "places": FORCED_TOKENS + 1}
            return asked | {"ids": ids} | place
        case Role.AR:
            text = ReconstructorPrompt.load(one.model_path, description, tokens_of=tokens_of, trust_remote_code=trust)
            return asked | {"ids": text.encode(TEXT)}
        case Role.SOURCE:
            own = SourceTokenizer.load(tokens_of, trust_remote_code=trust)
            return asked | {"ids": own.read_text(TEXT, add_special_tokens=True, param=None).ids}
        case _:
            assert_never(plan.role)
