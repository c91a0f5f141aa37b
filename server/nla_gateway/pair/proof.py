"""The self-tests that an engine must pass before it counts as ready.

If injection fails, a verbalizer fluently describes the marker character; if the stock model runs, a reconstructor
answers unit vectors without a word. Both look fine, so both are disproved here, on the live engine.
"""

import uuid
from typing import Any, Final, assert_never

import numpy as np
from numpy.typing import NDArray

from nla_gateway.engines.engine import Engine
from nla_gateway.pair.parts import Part
from nla_gateway.pair.reconstructor import Reconstructor
from nla_gateway.pair.verbalizer import ONE_TOKEN, Verbalizer

TOP_LOGPROBS: Final = 20
SAME: Final = 1e-3
"""Largest difference of log-probabilities that counts as none."""
NOISE: Final = 0.1
"""Largest difference of one vector sent twice, as a share of that between two: kernels may not repeat bitwise."""
DRIFT: Final = 0.5
LEAST_DRIFT: Final = 0.05
"""The same for a prompt whose start is cached: other shapes round otherwise, in bfloat16 by up to 0.1."""
PROOF_TEXTS: Final = ("A recipe for bread.", "The stock market fell sharply on Monday.")
SAMPLED: Final = {"temperature": 1.0, "top_p": 0.9, "max_new_tokens": 2, "sampling_seed": 0}


class ProofError(Exception):
    """A self-test failed; the text says what the engine does wrong."""


async def prove(part: Part, engine: Engine, info: dict[str, Any]) -> None:
    """Run the self-test of one engine.

    Args:
        part: what it serves.
        engine: the engine, which answers.
        info: its own account of itself, SGLang's `/server_info`.

    Raises:
        ProofError: it does something wrong.
        EngineLostError: it went away meanwhile.
    """
    _check_plugin(part, info)
    match part:
        case Verbalizer():
            for replica in part.replicas:
                await prove_injection(part, engine, replica)
        case Reconstructor():
            await prove_reconstruction(part, engine)
        case _:
            assert_never(part)


async def prove_injection(verbalizer: Verbalizer, engine: Engine, replica: dict[str, int]) -> None:
    """Prove that injected vectors reach the model, in one of the engine's replicas.

    Two vectors must give different logits, both different from the plain marker's, and one vector twice the same.

    Raises:
        ProofError: they do not.
    """
    first, second = np.random.default_rng(0).standard_normal((2, verbalizer.sidecar.d_model)).astype(np.float32)

    async def logprobs(vector: NDArray[np.float32] | None, name: str) -> dict[int, float]:
        return await _logprobs(verbalizer, engine, vector, name, replica)

    one, again = await logprobs(first, "one"), await logprobs(first, "again")
    other, marker = await logprobs(second, "other"), await logprobs(None, "marker")
    signal = min(_distance(one, marker), _distance(other, marker))
    if signal <= SAME:
        raise ProofError("an injected vector changes nothing: the model sees the plain marker instead")
    signal = min(signal, _distance(one, other))
    if signal <= SAME:
        raise ProofError("two different vectors give the same logits: check the sidecar's injection_scale")
    if _distance(one, again) > max(SAME, NOISE * signal):
        raise ProofError("the same vector gives different logits when sent twice")
    # The marker's request has filled the prefix cache.
    if _distance(one, await logprobs(first, "reused")) > max(LEAST_DRIFT, DRIFT * signal):
        raise ProofError("the same vector gives different logits when the prompt's start comes from the cache")
    # Sampling compiles a kernel on first use; no caller should wait for it.
    await engine.generate(verbalizer.payload(None, SAMPLED, _rid("sampled")) | replica)


async def prove_reconstruction(reconstructor: Reconstructor, engine: Engine) -> None:
    """Prove that texts become finite vectors [d_model], different for different texts.

    Raises:
        ProofError: they do not.
    """
    prompts = [reconstructor.prompt.encode(text) for text in PROOF_TEXTS]
    vectors, _ = await engine.embed(prompts, reconstructor.settings.model, _rid("texts"))
    d_model = reconstructor.sidecar.d_model
    for vector in vectors:
        if vector.shape != (d_model,) or not np.isfinite(vector).all() or not vector.any():
            raise ProofError(f"it rebuilds vectors that are not {d_model} finite numbers")
    if np.allclose(vectors[0], vectors[1], rtol=1e-3, atol=0):
        raise ProofError("two different texts give the same vector")


def _check_plugin(part: Part, info: dict[str, Any]) -> None:
    states = info.get("internal_states") or [{}]
    for state in states:
        _check_report(part, state.get("nla"))
    if len(states) != part.settings.replicas:
        raise ProofError(f"the engine has {len(states)} replicas, but was meant to have {part.settings.replicas}")


def _check_report(part: Part, report: dict[str, Any] | None) -> None:
    if report is None:
        raise ProofError("the engine runs without our plugin (nla_engine): it was not started by nla-serve")
    if report["missing_hooks"]:
        raise ProofError(f"these hooks of our plugin are not in: {', '.join(report['missing_hooks'])}")
    role, dtype = part.role, part.settings.dtype
    if report["role"] != role:
        raise ProofError(f"the engine was started as {report['role']}, not as {role}")
    if not report["model_class"].endswith(part.class_ending):
        raise ProofError(f"the engine runs the stock class {report['model_class']} instead of a {role.label}")
    if report["dtype"] != dtype:
        raise ProofError(f"the engine computes in {report['dtype']}, but was meant to in {dtype}")


async def _logprobs(
    verbalizer: Verbalizer, engine: Engine, vector: NDArray[np.float32] | None, name: str, replica: dict[str, int]
) -> dict[int, float]:
    injected = None if vector is None else verbalizer.inject(vector)
    payload = verbalizer.payload(injected, ONE_TOKEN, _rid(name))
    # From the marker on, so that the marker's own request reuses as much as the others and is computed as they are.
    payload |= {
        **replica,
        "return_logprob": True,
        "top_logprobs_num": TOP_LOGPROBS,
        "logprob_start_len": verbalizer.prompt.position,
    }
    answer = await engine.generate(payload)
    top = {token: logprob for logprob, token, *_ in answer["meta_info"]["output_top_logprobs"][0]}
    # JSON has no NaN: the engine sends null for it.
    if not all(logprob is not None and np.isfinite(logprob) for logprob in top.values()):
        raise ProofError("the logits are not finite: check the sidecar's injection_scale")
    return top


def _rid(name: str) -> str:
    """An id of its own: several gateways may prove one engine at the same time."""
    return f"proof.{name}.{uuid.uuid4().hex}."


def _distance(one: dict[int, float], other: dict[int, float]) -> float:
    """Largest difference of log-probabilities; a token outside a top list has at most that list's least."""
    least_one, least_other = min(one.values()), min(other.values())
    return max(abs(one.get(token, least_one) - other.get(token, least_other)) for token in one.keys() | other.keys())
